// The table of a load, and its criteria.
import type { Growth } from '../hostile/memory.ts'
import { percentile } from '../statistics.ts'
import {
  accuracyOf,
  computeLatencies,
  computeP95,
  countEndedBy,
  filterByClass,
  filterHonest,
  findLongestMs,
  type Outcome,
  type ServedJob,
} from './outcome.ts'
import { CLASSES } from './trace.ts'

/** The same trace under both policies, and the honest accounts alone. */
export type Runs = { fcfs: Outcome; steps: Outcome; alone: Outcome }
export type Conditions = { load: number; minutes: number; seed: number /** Seconds. */; aging: number }
export type Verdict = { turbo: number; honest: number; throughput: number; longestMs: number; agingMs: number }

export function judge({ fcfs, steps, alone }: Runs, { minutes, aging }: Conditions): Verdict {
  return {
    turbo: computeP95(filterByClass(steps.served, 'turbo')) / computeP95(filterByClass(fcfs.served, 'turbo')),
    honest: Math.max(
      ...CLASSES.map(
        (kind) =>
          computeP95(filterByClass(filterHonest(steps.served), kind)) / computeP95(filterByClass(alone.served, kind)),
      ),
    ),
    throughput: countEndedBy(steps.served, minutes * 60_000) / countEndedBy(fcfs.served, minutes * 60_000),
    longestMs: findLongestMs(steps.served),
    agingMs: aging * 1000,
  }
}

/** Whether the criteria are met. */
export const isMet = ({ turbo, honest, throughput, longestMs: longest, agingMs }: Verdict): boolean =>
  turbo <= 0.35 && honest <= 1.3 && throughput >= 0.97 && longest <= agingMs

const seconds = (ms: number) => (ms / 1000).toFixed(2)

function printHead({ load, minutes, seed }: Conditions): void {
  const columns = ['p50', 'p95', 'p99'].map((name) => name.padStart(9)).join('')
  console.log(`\nload ${load} for ${minutes} minutes, seed ${seed}; seconds from submission to image`)
  console.log(`${''.padEnd(50)}${'jobs'.padStart(8)}${columns}`)
}

function printRows(name: string, served: readonly ServedJob[]): void {
  for (const kind of CLASSES) {
    const times = computeLatencies(filterByClass(served, kind))
    const cells = [0.5, 0.95, 0.99].map((part) => seconds(percentile(times, part)).padStart(9)).join('')
    console.log(`${`${name}, ${kind}`.padEnd(50)}${String(times.length).padStart(8)}${cells}`)
  }
}

/** Number of jobs of a class whose waits are printed. */
const SLOWEST = 4

/** Prints where the slowest jobs of each class waited: before their acceptance, or for the device. */
function printSlowest(name: string, served: readonly ServedJob[]): void {
  const computeTotalMs = ({ submitted, ended }: ServedJob) => ended - submitted
  for (const kind of CLASSES) {
    const slowest = filterByClass(served, kind).toSorted((a, b) => computeTotalMs(b) - computeTotalMs(a))
    const waits = slowest
      .slice(0, SLOWEST)
      .map(({ submitted, accepted, ended }) => `${seconds(accepted - submitted)} + ${seconds(ended - accepted)}`)
    console.log(`slowest ${kind} jobs of ${name}, until acceptance + from acceptance: ${waits.join(', ')}`)
  }
}

function printRefusals({ refusals }: Outcome, { minutes }: Conditions): void {
  const { judged, accurate, early, late } = accuracyOf(refusals, minutes * 60_000)
  const formatShare = (count: number) => `${((100 * count) / judged).toFixed(1)} %`
  console.log(`${refusals.length} jobs refused at first; ${judged} with a Retry-After that ends during the load`)
  if (judged === 0) return
  console.log(
    `Retry-After within 30 %: ${formatShare(accurate)}; too long: ${formatShare(early)}; too short: ${formatShare(late)}`,
  )
}

const printLongest = (longest: number, { aging }: Conditions) =>
  console.log(`longest time from acceptance to image: ${seconds(longest)} s (at most ${aging} s)`)

/** Prints the percentiles of a load below the capacity and its criteria. Sets exit code 1 if one is not met. */
export function printComparison(runs: Runs, conditions: Conditions): void {
  const { fcfs, steps, alone } = runs
  printHead(conditions)
  printRows('first come, first served', fcfs.served)
  printRows('scheduler', steps.served)
  printRows('first come, first served, honest accounts', filterHonest(fcfs.served))
  printRows('scheduler, honest accounts', filterHonest(steps.served))
  printRows('scheduler, honest accounts alone', alone.served)
  printSlowest('honest accounts', filterHonest(steps.served))
  printRefusals(steps, conditions)
  const verdict = judge(runs, conditions)
  printLongest(verdict.longestMs, conditions)
  console.log(`Turbo p95, scheduler / first come, first served: ${verdict.turbo.toFixed(3)} (at most 0.35)`)
  console.log(`honest p95 of each class, among all / alone: ${verdict.honest.toFixed(3)} (at most 1.3)`)
  console.log(`images by the end of the arrivals: ${verdict.throughput.toFixed(3)} x (at least 0.97)`)
  if (!isMet(verdict)) process.exitCode = 1
}

/** Prints the latency percentiles and the Retry-After accuracy of a trace. */
export function printOutcome(name: string, outcome: Outcome, conditions: Conditions): void {
  printHead(conditions)
  printRows(name, outcome.served)
  printRows(`${name}, honest accounts`, filterHonest(outcome.served))
  printRefusals(outcome, conditions)
}

/** Prints these figures for a load above the capacity. Sets exit code 1 after a late image. */
export function printOverload(outcome: Outcome, conditions: Conditions): void {
  printOutcome('scheduler', outcome, conditions)
  const longest = findLongestMs(outcome.served)
  printLongest(longest, conditions)
  if (longest > conditions.aging * 1000) process.exitCode = 1
}

/** Prints the mean memory of the first and the last third of a load. Sets exit code 1 if it grows. */
export function printMemory(memory: readonly Growth[]): void {
  const formatMebibytes = (bytes: number) => Math.round(bytes / 2 ** 20)
  for (const { name, first, last, peak, flat } of memory) {
    const figures = `${formatMebibytes(first)} in the first third, ${formatMebibytes(last)} in the last, peak ${formatMebibytes(peak)}`
    console.log(`${name}, MiB: ${figures}: ${flat ? 'flat' : 'grows'}`)
    if (!flat) process.exitCode = 1
  }
}
