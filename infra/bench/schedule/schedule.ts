// `npm run bench -- schedule`: the scheduler of the GPU function against first come, first served on the same trace.
import { randomOf } from '../../command/random.ts'
import { percentile } from '../statistics.ts'
import { firstComeFirstServed, type Outcome, type Served, simulate, stepScheduler } from './simulate.ts'
import { CLASSES, drawTrace, FLOODING, H200, withoutFlood } from './trace.ts'

export type ScheduleBenchOptions = { minutes: number; seed: number; aging: number; loads: number[] }

const latencies = (served: readonly Served[]) => served.map(({ submitted, ended }) => ended - submitted)
const ofClass = (served: readonly Served[], kind: string) => served.filter((each) => each.kind === kind)
const honest = (served: readonly Served[]) => served.filter(({ account }) => account !== FLOODING)
/** Images by the end of the arrivals. */
const endedBy = (served: readonly Served[], ms: number) => served.filter(({ ended }) => ended <= ms).length
const p95 = (served: readonly Served[]) => percentile(latencies(served), 0.95)

export type Verdict = { turbo: number; honest: number; throughput: number; longestMs: number; agingMs: number }

/** Runs one trace under both policies, and the honest accounts alone. */
export function compare(load: number, { minutes, seed, aging }: Omit<ScheduleBenchOptions, 'loads'>) {
  const agingMs = aging * 1000
  const trace = drawTrace(H200, load, minutes * 60_000, randomOf(seed, `schedule ${load}`))
  const fcfs = simulate(trace, H200, firstComeFirstServed())
  const steps = simulate(trace, H200, stepScheduler(agingMs))
  const alone = simulate(withoutFlood(trace), H200, stepScheduler(agingMs))
  const verdict: Verdict = {
    turbo: p95(ofClass(steps.served, 'turbo')) / p95(ofClass(fcfs.served, 'turbo')),
    honest: Math.max(
      ...CLASSES.map((kind) => p95(ofClass(honest(steps.served), kind)) / p95(ofClass(alone.served, kind))),
    ),
    throughput: endedBy(steps.served, minutes * 60_000) / endedBy(fcfs.served, minutes * 60_000),
    longestMs: Math.max(...steps.served.map(({ accepted, ended }) => ended - accepted)),
    agingMs,
  }
  return { fcfs, steps, alone, verdict }
}

/** Whether the criteria are met. */
export const isMet = ({ turbo, honest: ratio, throughput, longestMs, agingMs }: Verdict): boolean =>
  turbo <= 0.35 && ratio <= 1.3 && throughput >= 0.97 && longestMs <= agingMs

const cell = (ms: number) => (ms / 1000).toFixed(2).padStart(9)

function printRows(name: string, { served }: Outcome, among: (served: readonly Served[]) => Served[]): void {
  for (const kind of CLASSES) {
    const times = latencies(ofClass(among(served), kind))
    const cells = [0.5, 0.95, 0.99].map((part) => cell(percentile(times, part))).join('')
    console.log(`${`${name}, ${kind}`.padEnd(44)}${String(times.length).padStart(8)}${cells}`)
  }
}

/** Prints percentiles by class and the criteria. Sets exit code 1 if one is not met. */
export function benchSchedule(options: ScheduleBenchOptions): void {
  const all = (served: readonly Served[]) => [...served]
  for (const load of options.loads) {
    const { fcfs, steps, alone, verdict } = compare(load, options)
    console.log(`\nload ${load} for ${options.minutes} minutes, seed ${options.seed}; seconds from submission to image`)
    console.log(
      `${''.padEnd(44)}${'jobs'.padStart(8)}${['p50', 'p95', 'p99'].map((name) => name.padStart(9)).join('')}`,
    )
    printRows('first come, first served', fcfs, all)
    printRows('scheduler', steps, all)
    printRows('first come, first served, honest accounts', fcfs, honest)
    printRows('scheduler, honest accounts', steps, honest)
    printRows('scheduler, honest accounts alone', alone, honest)
    console.log(`Turbo p95, scheduler / first come, first served: ${verdict.turbo.toFixed(3)} (at most 0.35)`)
    console.log(`honest p95 of each class, among all / alone: ${verdict.honest.toFixed(3)} (at most 1.3)`)
    console.log(`images by the end of the arrivals: ${verdict.throughput.toFixed(3)} x (at least 0.97)`)
    console.log(
      `longest time from acceptance to image: ${cell(verdict.longestMs).trim()} s (at most ${options.aging} s)`,
    )
    if (!isMet(verdict)) process.exitCode = 1
  }
}
