// How long a GPU stays warm, when one is started before anybody asks for a picture, and what that may cost a day: the variable OCTET_PREWARM.
import type { PrewarmPolicy } from '../config/prewarm.ts'

/** What is known of an endpoint. Times are Unix milliseconds; null is never. */
export type Readiness = {
  /** When it was last heard of as ready: it accepted a job, ended one, or answered a ping. */
  ready: number | null
  /** Since when it has been asked to start and has not been ready. */
  starting: number | null
  /** Seconds that the last starts took, newest first. */
  starts: number[]
  /** Seconds spent on being ready, of one day (UTC). */
  spent: { day: string; seconds: number }
}
export const NO_READINESS: Readiness = { ready: null, starting: null, starts: [], spent: { day: '', seconds: 0 } }

/** A start that has not ended after this was none: the next sign of traffic begins another. */
const START_LIMIT_MS = 15 * 60_000
const STARTS_KEPT = 9

export const dayOf = (now: number) => new Date(now).toISOString().slice(0, 10)
export const spentToday = ({ spent }: Readiness, now: number) => (spent.day === dayOf(now) ? spent.seconds : 0)

/** When the host takes the container away unless something comes. */
const warmUntil = ({ ready }: Readiness, { idle_seconds }: PrewarmPolicy) => (ready ?? 0) + idle_seconds * 1000
const isStarting = ({ starting }: Readiness, now: number) => starting !== null && now - starting < START_LIMIT_MS

/** How long a cold start takes: the middle one of those that were seen. */
export function startSeconds({ starts }: Readiness, { start_seconds }: PrewarmPolicy): number {
  if (starts.length === 0) return start_seconds
  return starts.toSorted((a, b) => a - b)[Math.floor(starts.length / 2)]!
}

export type GpuState = { state: 'warm' | 'starting' | 'cold'; ready_in_seconds: number }

/** What callers are told: how the GPU stands, and when it is ready for a job that is sent now. */
export function stateOf(readiness: Readiness, policy: PrewarmPolicy, now: number): GpuState {
  if (now < warmUntil(readiness, policy)) return { state: 'warm', ready_in_seconds: 0 }
  const start = startSeconds(readiness, policy)
  if (!isStarting(readiness, now)) return { state: 'cold', ready_in_seconds: Math.ceil(start) }
  const left = start - (now - readiness.starting!) / 1000
  return { state: 'starting', ready_in_seconds: Math.max(1, Math.ceil(left)) }
}

/**
 * Seconds that a ping now would add to the GPU's life, or null when it would not be sent: one starts already, half of the time of grace is
 * left, or the day's budget does not reach.
 */
export function pingCost(readiness: Readiness, policy: PrewarmPolicy, now: number): number | null {
  const { idle_seconds: idle, budget_seconds: budget } = policy
  if (isStarting(readiness, now)) return null
  const left = Math.max(0, (warmUntil(readiness, policy) - now) / 1000)
  if (left > idle / 2) return null
  const cost = idle - left + (left > 0 ? 0 : startSeconds(readiness, policy))
  return spentToday(readiness, now) + cost <= budget ? cost : null
}

/** Whether the schedule wants the GPU warm. A span that ends before it begins goes over midnight, and belongs to the day it begins on. */
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

/** The endpoint was ready at `now`: it took or ended a job, or answered a ping. */
export function markReady(readiness: Readiness, now: number): Readiness {
  const { starting, starts, ready } = readiness
  const took = starting === null ? null : (now - starting) / 1000
  return {
    ...readiness,
    ready: Math.max(now, ready ?? 0),
    starting: null,
    starts: took === null || took > START_LIMIT_MS / 1000 ? starts : [took, ...starts].slice(0, STARTS_KEPT),
  }
}

/** The endpoint was asked at `now` and is not ready. */
export const markStarting = (readiness: Readiness, now: number): Readiness =>
  isStarting(readiness, now) ? readiness : { ...readiness, starting: now, ready: null }

export const recordSpending = (readiness: Readiness, seconds: number, now: number): Readiness => ({
  ...readiness,
  spent: { day: dayOf(now), seconds: spentToday(readiness, now) + seconds },
})
