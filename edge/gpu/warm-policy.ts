// How long a GPU stays warm, when one is started before anybody asks for a picture, and what that may cost a day: the variable OCTET_PREWARM.
import * as z from 'zod'

const clock = z
  .string()
  .regex(/^([01]\d|2[0-4]):[0-5]\d$/, 'must be a time of day in UTC such as 08:00')
  .transform((text) => Number(text.slice(0, 2)) * 60 + Number(text.slice(3)))

const span = z.strictObject({
  /** Minutes of the day. */
  from: clock,
  to: clock,
  /** 1 is Monday, 7 Sunday. */
  days: z.array(z.int().min(1).max(7)).default([1, 2, 3, 4, 5, 6, 7]),
})

const table = z.strictObject({
  /** How long the host keeps a container without jobs: gpu.scaledown_window_seconds of infra/config.json. */
  idle_seconds: z.number().positive().max(3600).default(120),
  /** How long a cold start takes, until one was seen. */
  start_seconds: z.number().positive().max(3600).default(60),
  /** Seconds of GPU a day that may be spent on being ready; 0 leaves every start to the first job. */
  budget_seconds: z.number().min(0).max(86_400).default(0),
  /** When the GPU is kept warm, as long as the budget lasts. */
  schedule: z.array(span).default([]),
  /** Dollars an hour of one container, for estimates of what was spent. */
  dollars_per_hour: z.number().min(0).default(0),
})
export type WarmPolicy = z.infer<typeof table>

/** Reads OCTET_PREWARM, as JSON text or as a table of wrangler.toml; what it leaves out has the default. Throws when it is malformed. */
export function readWarmPolicy({ OCTET_PREWARM: given }: Pick<Env, 'OCTET_PREWARM'>): WarmPolicy {
  const parsed = table.safeParse((typeof given === 'string' ? JSON.parse(given) : given) ?? {})
  if (!parsed.success) throw new Error(`OCTET_PREWARM is malformed:\n${z.prettifyError(parsed.error)}`)
  return parsed.data
}

/** What is known of an endpoint. Times are Unix milliseconds; null is never. */
export type Warmth = {
  /** When it was last heard of as ready: it accepted a job, ended one, or answered a ping. */
  ready: number | null
  /** Since when it has been asked to start and has not been ready. */
  starting: number | null
  /** Seconds that the last starts took, newest first. */
  starts: number[]
  /** Seconds spent on being ready, of one day (UTC). */
  spent: { day: string; seconds: number }
}
export const NEVER_SEEN: Warmth = { ready: null, starting: null, starts: [], spent: { day: '', seconds: 0 } }

/** A start that has not ended after this was none: the next sign of traffic begins another. */
const START_LIMIT_MS = 15 * 60_000
const STARTS_KEPT = 9

export const dayOf = (now: number) => new Date(now).toISOString().slice(0, 10)
export const spentToday = ({ spent }: Warmth, now: number) => (spent.day === dayOf(now) ? spent.seconds : 0)

/** When the host takes the container away unless something comes. */
const warmUntil = ({ ready }: Warmth, { idle_seconds }: WarmPolicy) => (ready ?? 0) + idle_seconds * 1000
const isStarting = ({ starting }: Warmth, now: number) => starting !== null && now - starting < START_LIMIT_MS

/** How long a cold start takes: the middle one of those that were seen. */
export function startSeconds({ starts }: Warmth, { start_seconds }: WarmPolicy): number {
  if (starts.length === 0) return start_seconds
  return starts.toSorted((a, b) => a - b)[Math.floor(starts.length / 2)]!
}

export type GpuState = { state: 'warm' | 'starting' | 'cold'; ready_in_seconds: number }

/** What callers are told: how the GPU stands, and when it is ready for a job that is sent now. */
export function stateOf(warmth: Warmth, policy: WarmPolicy, now: number): GpuState {
  if (now < warmUntil(warmth, policy)) return { state: 'warm', ready_in_seconds: 0 }
  const start = startSeconds(warmth, policy)
  if (!isStarting(warmth, now)) return { state: 'cold', ready_in_seconds: Math.ceil(start) }
  const left = start - (now - warmth.starting!) / 1000
  return { state: 'starting', ready_in_seconds: Math.max(1, Math.ceil(left)) }
}

/**
 * Seconds that a ping now would add to the GPU's life, or null when it would not be sent: one starts already, half of the time of grace is
 * left, or the day's budget does not reach.
 */
export function pingCost(warmth: Warmth, policy: WarmPolicy, now: number): number | null {
  const { idle_seconds: idle, budget_seconds: budget } = policy
  if (isStarting(warmth, now)) return null
  const left = Math.max(0, (warmUntil(warmth, policy) - now) / 1000)
  if (left > idle / 2) return null
  const cost = idle - left + (left > 0 ? 0 : startSeconds(warmth, policy))
  return spentToday(warmth, now) + cost <= budget ? cost : null
}

/** Whether the schedule wants the GPU warm. A span that ends before it begins goes over midnight, and belongs to the day it begins on. */
export function isScheduled({ schedule }: WarmPolicy, now: number): boolean {
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
export function seenReady(warmth: Warmth, now: number): Warmth {
  const { starting, starts, ready } = warmth
  const took = starting === null ? null : (now - starting) / 1000
  return {
    ...warmth,
    ready: Math.max(now, ready ?? 0),
    starting: null,
    starts: took === null || took > START_LIMIT_MS / 1000 ? starts : [took, ...starts].slice(0, STARTS_KEPT),
  }
}

/** The endpoint was asked at `now` and is not ready. */
export const seenStarting = (warmth: Warmth, now: number): Warmth =>
  isStarting(warmth, now) ? warmth : { ...warmth, starting: now, ready: null }

export const spend = (warmth: Warmth, seconds: number, now: number): Warmth => ({
  ...warmth,
  spent: { day: dayOf(now), seconds: spentToday(warmth, now) + seconds },
})
