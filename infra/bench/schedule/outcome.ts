// Results of a trace, and the accuracy of the Retry-After of refused jobs.
import { percentile } from '../statistics.ts'
import { FLOODING, type JobClass } from './trace.ts'

/** Milliseconds from the start of the trace: first submission, acceptance, end. */
export type Served = { account: string; kind: JobClass; submitted: number; accepted: number; ended: number }

/**
 * A refused job. Milliseconds: its first refusal, the Retry-After of that refusal, and its acceptance; null without one. `early`: it was
 * accepted when it asked too early.
 */
export type Refusal = { at: number; promised: number; accepted: number | null; early: boolean }

/** `endMs`: the end of the last job. */
export type Outcome = { served: Served[]; refusals: Refusal[]; endMs: number }

/** The permitted error of a Retry-After, as a share of it. */
const ERROR = 0.3
const SECOND = 1000

/**
 * The time, in milliseconds after its first refusal, at which a job asks too early. Retry-After is in whole seconds, rounded up, so the
 * estimate may be up to a second shorter.
 */
const earlyMs = (promised: number) => (1 - ERROR) * (promised - SECOND)

/** The job of a first refusal at `at`. */
export const refusedJob = (at: number, promised: number): Refusal => ({ at, promised, accepted: null, early: false })

/**
 * The time at which a refused job asks again: once too early, then at its Retry-After, and then at each further one. `refusals`: the number
 * of refusals so far, the last at `now` with `retryAfterMs`. Milliseconds from the start of the trace.
 */
export function nextAsk({ at, promised }: Refusal, refusals: number, now: number, retryAfterMs: number): number {
  if (refusals === 1 && earlyMs(promised) > 0) return at + earlyMs(promised)
  return now < at + promised ? at + promised : now + retryAfterMs
}

/** Records the acceptance of a job after a number of refusals. */
export function accept(refused: Refusal, refusals: number, now: number): void {
  refused.accepted = now
  refused.early = refusals === 1 && earlyMs(refused.promised) > 0
}

type Accuracy = { judged: number; accurate: number; early: number; late: number }

/**
 * The number of refused jobs whose Retry-After was accurate within 30 %: refused at 70 % of it, and accepted by 130 % of it. Only jobs for
 * which both times were before `untilMs` are judged.
 */
export function accuracyOf(refusals: readonly Refusal[], untilMs: number): Accuracy {
  const latest = ({ at, promised }: Refusal) => at + (1 + ERROR) * promised
  const judged = refusals.filter((each) => latest(each) <= untilMs)
  const early = judged.filter((each) => each.early).length
  const late = judged.filter((each) => (each.accepted ?? Number.POSITIVE_INFINITY) > latest(each)).length
  return { judged: judged.length, accurate: judged.length - early - late, early, late }
}

export const latencies = (served: readonly Served[]) => served.map(({ submitted, ended }) => ended - submitted)
export const ofClass = (served: readonly Served[], kind: JobClass) => served.filter((each) => each.kind === kind)
export const ofHonest = (served: readonly Served[]) => served.filter(({ account }) => account !== FLOODING)
export const p95 = (served: readonly Served[]) => percentile(latencies(served), 0.95)
/** Number of jobs that ended by `ms`. */
export const endedBy = (served: readonly Served[], ms: number) => served.filter(({ ended }) => ended <= ms).length
/** The longest time from acceptance to image, in milliseconds. */
export const longestMs = (served: readonly Served[]) =>
  Math.max(...served.map(({ accepted, ended }) => ended - accepted))
