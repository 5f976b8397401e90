// The readiness of a GPU: its states, the duration of its starts, and the daily cost of prewarming. Pure.
import type { PrewarmPolicy } from '../config/prewarm.ts'

/** State of an endpoint as observed by a job: it accepts jobs, it is starting, or it does not answer as a GPU function. */
export type Health = 'ready' | 'starting' | 'down'

/** An endpoint's record. Times are Unix milliseconds; null means never. */
export type Readiness = {
  /** The time when it last accepted a job, ended one, or answered a ping. */
  ready: number | null
  /** The first request since it was last ready. */
  starting: number | null
  /** Durations of the last starts in seconds, newest first. */
  starts: number[]
  /** Seconds of prewarming on one day (UTC). */
  spent: { day: string; seconds: number }
  /** End of the down state, in Unix milliseconds. */
  downUntil?: number
}
export const NO_READINESS: Readiness = { ready: null, starting: null, starts: [], spent: { day: '', seconds: 0 } }

/** A start that takes longer has failed: the next request begins another. */
const START_LIMIT_MS = 15 * 60_000
const MAX_STARTS = 9
/** Duration of the down state after a failure. */
export const DOWN_MS = 30_000

export const dayOf = (now: number) => new Date(now).toISOString().slice(0, 10)
/** The day (UTC) for sums that were last counted on `day`. It never moves backward, so that a clock that does so loses no sum. */
export const chooseLaterDay = (day: string, now: number) => (day > dayOf(now) ? day : dayOf(now))
export const countSpentToday = ({ spent }: Readiness, now: number) =>
  spent.day === chooseLaterDay(spent.day, now) ? spent.seconds : 0
export const isDown = ({ downUntil = 0 }: Readiness, now: number) => downUntil > now

/** The time when the host stops an idle container. */
const warmUntil = ({ ready }: Readiness, { idle_seconds }: PrewarmPolicy) => (ready ?? 0) + idle_seconds * 1000
const isStarting = ({ starting }: Readiness, now: number) => starting !== null && now - starting < START_LIMIT_MS

/** The duration of a cold start: the median of the last ones. */
export function startSeconds({ starts }: Readiness, { start_seconds }: PrewarmPolicy): number {
  if (starts.length === 0) return start_seconds
  return starts.toSorted((a, b) => a - b)[Math.floor(starts.length / 2)]!
}

export type GpuState = { state: 'warm' | 'starting' | 'cold'; ready_in_seconds: number }

/** The operator's report on an endpoint. */
export type EndpointReport = GpuState & {
  down: boolean
  start_seconds: number
  starts_seen: number
  budget_seconds: number
  spent_today_seconds: number
  spent_today_dollars: number
}

/** Today's GPU time (UTC) and its ceiling, for the operator. */
export type BudgetReport = { daily_seconds: number; spent_seconds: number; reserved_seconds: number }

/** The state of the GPU, and the time until it is ready for a job that is sent now. */
export function stateOf(readiness: Readiness, policy: PrewarmPolicy, now: number): GpuState {
  if (now < warmUntil(readiness, policy)) return { state: 'warm', ready_in_seconds: 0 }
  const start = startSeconds(readiness, policy)
  if (!isStarting(readiness, now)) return { state: 'cold', ready_in_seconds: Math.ceil(start) }
  const left = start - (now - readiness.starting!) / 1000
  return { state: 'starting', ready_in_seconds: Math.max(1, Math.ceil(left)) }
}

/**
 * The cost of a ping in seconds of GPU time. Null if no ping is due: the GPU is starting, more than half of the idle time is left, or the
 * daily budget does not cover it.
 */
export function pingCost(readiness: Readiness, policy: PrewarmPolicy, now: number): number | null {
  const { idle_seconds: idle, budget_seconds: budget } = policy
  if (isStarting(readiness, now)) return null
  const left = Math.max(0, (warmUntil(readiness, policy) - now) / 1000)
  if (left > idle / 2) return null
  const cost = idle - left + (left > 0 ? 0 : startSeconds(readiness, policy))
  return countSpentToday(readiness, now) + cost <= budget ? cost : null
}

/** Whether the schedule keeps the GPU warm. A span that ends before it begins lasts past midnight and belongs to its first day. */
export function isScheduled({ schedule }: PrewarmPolicy, now: number): boolean {
  const date = new Date(now)
  const minute = date.getUTCHours() * 60 + date.getUTCMinutes()
  const today = date.getUTCDay() || 7
  const yesterday = today === 1 ? 7 : today - 1
  return schedule.some(({ from, to, days }) => {
    if (from <= to) return days.includes(today) && minute >= from && minute < to
    return (days.includes(today) && minute >= from) || (days.includes(yesterday) && minute < to)
  })
}

/** The record after a sign of readiness: the endpoint accepted or ended a job, or answered a ping. */
export function markReady(readiness: Readiness, now: number): Readiness {
  const { starting, starts, ready } = readiness
  const took = starting === null ? null : (now - starting) / 1000
  return {
    ...readiness,
    downUntil: 0,
    ready: Math.max(now, ready ?? 0),
    starting: null,
    starts: took === null || took > START_LIMIT_MS / 1000 ? starts : [took, ...starts].slice(0, MAX_STARTS),
  }
}

/** The record after a request to an endpoint that is not ready. */
export const markStarting = (readiness: Readiness, now: number): Readiness =>
  isStarting(readiness, now) ? readiness : { ...readiness, starting: now, ready: null }

/** The record after a request to an endpoint that is down. */
export const markDown = (readiness: Readiness, now: number): Readiness => ({ ...readiness, downUntil: now + DOWN_MS })

export const recordSpending = (readiness: Readiness, seconds: number, now: number): Readiness => ({
  ...readiness,
  spent: { day: chooseLaterDay(readiness.spent.day, now), seconds: countSpentToday(readiness, now) + seconds },
})
