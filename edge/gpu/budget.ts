// The daily ceiling for GPU time (OCTET_GPU_BUDGET), as jobs, requests and prewarming use it. Without a ceiling, no object is called.
import type { Timings } from '#contract'
import { configOf } from '../config.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { log } from '../platform/log.ts'
import { DAY_MS } from '../platform/units.ts'
import type { BudgetReport } from './readiness.ts'

/** `busy`: only the reservations of other attempts prevent this one. `exhausted`: no attempt can start on this day. */
export type Room = 'reserved' | 'busy' | 'exhausted'

/** The object of the ceiling, one per deployment; null if there is no ceiling. */
const findBudgetObject = (env: Env) => (configOf(env).gpuBudget ? objectOf(env.GPU_BUDGET, 'all') : null)

/** Reserves GPU_RUN_SECONDS for an attempt of a job. An earlier reservation of the job counts as spent until now. A failure counts as `busy`. */
export async function reserveGpuTime(env: Env, job: string): Promise<Room> {
  try {
    return (await findBudgetObject(env)?.reserve(job)) ?? 'reserved'
  } catch (cause) {
    log('warn', 'GPU time could not be reserved', { job, cause })
    return 'busy'
  }
}

/** `accepted`: Unix milliseconds; null if no GPU accepted the attempt. `timings`: null if the GPU function reported none. */
type AttemptRecord = { id: string; accepted: number | null; timings: Timings | null }

/**
 * The start of the GPU time to count. With timings, only the work on the job counts, because the times since acceptance of jobs that share
 * a GPU overlap.
 */
function sinceOf({ accepted, timings }: AttemptRecord): number | null {
  if (accepted === null || timings === null) return accepted
  const { load, encode, denoise, decode } = timings
  return Math.max(accepted, Date.now() - 1000 * (load + encode + denoise + decode))
}

/** Replaces a job's reservation by the GPU time of its attempt. After a failure, which is only logged, the reservation counts as spent. */
export async function settleGpuTime(env: Env, { id: job, ...attempted }: AttemptRecord): Promise<void> {
  try {
    await findBudgetObject(env)?.settle(job, sinceOf({ id: job, ...attempted }))
  } catch (cause) {
    log('warn', 'GPU time could not be settled', { job, cause })
  }
}

/** Spends time on prewarming. False, without spending, if the ceiling does not cover it. */
export const spendGpuTime = async (env: Env, ms: number): Promise<boolean> =>
  (await findBudgetObject(env)?.spend(ms)) ?? true

/** Whether no attempt can start on this day. */
export const isGpuBudgetExhausted = async (env: Env): Promise<boolean> =>
  (await findBudgetObject(env)?.isExhausted()) ?? false

/** Null if there is no ceiling. */
export const readBudgetReport = async (env: Env): Promise<BudgetReport | null> =>
  (await findBudgetObject(env)?.report()) ?? null

/** The message for callers. */
export const GPU_BUDGET_EXHAUSTED =
  'The GPU time of this service for today (UTC) is used up. Nothing was charged; please try again tomorrow.'

/** Seconds until the next day (UTC), rounded up. */
export const secondsToNextDay = (now: number): number => Math.ceil((DAY_MS - (now % DAY_MS)) / 1000)
