// Results of a trace, and the accuracy of the Retry-After of refused jobs.
import { percentile } from '../statistics.ts'
import { FLOODING, type JobClass } from './trace.ts'

/** Milliseconds from the start of the trace: first submission, acceptance, end. */
export type ServedJob = { account: string; kind: JobClass; submitted: number; accepted: number; ended: number }

/** A refused job. Milliseconds: its first refusal, the Retry-After of that refusal, and its acceptance; null if there is none. */
export type Refusal = { at: number; promised: number; accepted: number | null }

/** `endMs`: the end of the last job. */
export type Outcome = { served: ServedJob[]; refusals: Refusal[]; endMs: number }

/** The longest pause of the worker between two offers of a job (edge/gpu/client.ts). */
const MAX_PAUSE_MS = 5_000
/** Milliseconds until a refused job is offered again, as by the worker. */
export const computePauseMs = (retryAfterMs: number): number => Math.min(retryAfterMs, MAX_PAUSE_MS)

/** The permitted error of a Retry-After, as a share of it. */
const ERROR = 0.3
const SECOND = 1_000

type Accuracy = { judged: number; accurate: number; early: number; late: number }

/**
 * The number of refused jobs whose first Retry-After was within 30 % of the time until their acceptance. Retry-After is in whole
 * seconds, rounded up, so the estimate may be up to a second shorter. Only jobs whose 130 % ends by `untilMs` are judged.
 */
export function accuracyOf(refusals: readonly Refusal[], untilMs: number): Accuracy {
  const judged = refusals.filter(({ at, promised }) => at + (1 + ERROR) * promised <= untilMs)
  const counts = { judged: judged.length, accurate: 0, early: 0, late: 0 }
  for (const { at, promised, accepted } of judged) {
    const waited = (accepted ?? Number.POSITIVE_INFINITY) - at
    if (waited < (1 - ERROR) * (promised - SECOND)) counts.early += 1
    else if (waited > (1 + ERROR) * promised) counts.late += 1
    else counts.accurate += 1
  }
  return counts
}

export const computeLatencies = (served: readonly ServedJob[]) =>
  served.map(({ submitted, ended }) => ended - submitted)
export const filterByClass = (served: readonly ServedJob[], kind: JobClass) =>
  served.filter((each) => each.kind === kind)
export const filterHonest = (served: readonly ServedJob[]) => served.filter(({ account }) => account !== FLOODING)
export const computeP95 = (served: readonly ServedJob[]) => percentile(computeLatencies(served), 0.95)
/** Number of jobs that ended by `ms`. */
export const countEndedBy = (served: readonly ServedJob[], ms: number) =>
  served.filter(({ ended }) => ended <= ms).length
/** The longest time from acceptance to image, in milliseconds. */
export const findLongestMs = (served: readonly ServedJob[]) =>
  Math.max(...served.map(({ accepted, ended }) => ended - accepted))
