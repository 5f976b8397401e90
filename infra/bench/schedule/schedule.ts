// `npm run bench -- schedule`: the scheduler of the GPU function against first come, first served on the same trace.
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import type { FullSize } from '../../checkpoints/full-size.ts'
import { randomOf } from '../../command/random.ts'
import { builtInPackages } from '../../local/models/built-in-model.ts'
import { makeCheckpoint, makePackage } from '../gpu/packages.ts'
import { percentile } from '../statistics.ts'
import { measureCosts, openEngine, runTrace } from './real.ts'
import { firstComeFirstServed, type Outcome, type Served, simulate, stepScheduler } from './simulate.ts'
import { CLASSES, type CostTable, deviceMs, drawTrace, FLOODING, H200, withoutFlood } from './trace.ts'

export type ScheduleBenchOptions = {
  minutes: number
  seed: number
  /** Seconds. */
  aging: number
  loads: number[]
  /** Run on the engine instead of simulating. */
  real?: boolean
  packages?: string
  /** A variant of full size with random weights, made in `directory`. */
  random?: FullSize
  directory: string
  /** The runs to make, and a file for their results, with which the next command continues. */
  runs: (keyof Runs)[]
  out?: string
  turbo: string
  full: string
  size: number
}
type Settings = Pick<ScheduleBenchOptions, 'minutes' | 'seed' | 'aging'>
/** The same trace under both policies, and the honest accounts alone. */
type Runs = { fcfs: Outcome; steps: Outcome; alone: Outcome }

const latencies = (served: readonly Served[]) => served.map(({ submitted, ended }) => ended - submitted)
const ofClass = (served: readonly Served[], kind: string) => served.filter((each) => each.kind === kind)
const honest = (served: readonly Served[]) => served.filter(({ account }) => account !== FLOODING)
/** Number of jobs that ended by `ms`. */
const endedBy = (served: readonly Served[], ms: number) => served.filter(({ ended }) => ended <= ms).length
const p95 = (served: readonly Served[]) => percentile(latencies(served), 0.95)

export type Verdict = { turbo: number; honest: number; throughput: number; longestMs: number; agingMs: number }

/** Simulates one trace under both policies. */
export function compare(load: number, { minutes, seed, aging }: Settings) {
  const trace = drawTrace(H200, load, minutes * 60_000, randomOf(seed, `schedule ${load}`))
  const runs = {
    fcfs: simulate(trace, H200, firstComeFirstServed()),
    steps: simulate(trace, H200, stepScheduler(aging * 1000)),
    alone: simulate(withoutFlood(trace), H200, stepScheduler(aging * 1000)),
  }
  return { ...runs, verdict: judge(runs, minutes, aging) }
}

function judge({ fcfs, steps, alone }: Runs, minutes: number, aging: number): Verdict {
  return {
    turbo: p95(ofClass(steps.served, 'turbo')) / p95(ofClass(fcfs.served, 'turbo')),
    honest: Math.max(
      ...CLASSES.map((kind) => p95(ofClass(honest(steps.served), kind)) / p95(ofClass(alone.served, kind))),
    ),
    throughput: endedBy(steps.served, minutes * 60_000) / endedBy(fcfs.served, minutes * 60_000),
    longestMs: Math.max(...steps.served.map(({ accepted, ended }) => ended - accepted)),
    agingMs: aging * 1000,
  }
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

/** The share of refused jobs whose Retry-After was within 30 % of the time until they were accepted. */
export const accuracy = ({ refusals }: Outcome): number =>
  refusals.filter(({ promised, actual }) => Math.abs(actual / promised - 1) <= 0.3).length / refusals.length

function print(load: number, runs: Runs, { minutes, seed, aging }: Settings): void {
  const { fcfs, steps, alone } = runs
  const verdict = judge(runs, minutes, aging)
  const all = (served: readonly Served[]) => [...served]
  console.log(`\nload ${load} for ${minutes} minutes, seed ${seed}; seconds from submission to image`)
  console.log(`${''.padEnd(44)}${'jobs'.padStart(8)}${['p50', 'p95', 'p99'].map((name) => name.padStart(9)).join('')}`)
  printRows('first come, first served', fcfs, all)
  printRows('scheduler', steps, all)
  printRows('first come, first served, honest accounts', fcfs, honest)
  printRows('scheduler, honest accounts', steps, honest)
  printRows('scheduler, honest accounts alone', alone, honest)
  if (steps.refusals.length > 0) {
    const share = (100 * accuracy(steps)).toFixed(1)
    console.log(
      `Retry-After of ${steps.refusals.length} refused jobs: ${share} % within 30 % of the time of acceptance`,
    )
  }
  const longest = `${cell(verdict.longestMs).trim()} s (at most ${aging} s)`
  console.log(`longest time from acceptance to image: ${longest}`)
  if (load > 1) {
    console.log(`accepted and ended: ${steps.served.length} of ${fcfs.served.length} jobs`)
    if (verdict.longestMs > verdict.agingMs || steps.served.length < fcfs.served.length) process.exitCode = 1
    return
  }
  console.log(`Turbo p95, scheduler / first come, first served: ${verdict.turbo.toFixed(3)} (at most 0.35)`)
  console.log(`honest p95 of each class, among all / alone: ${verdict.honest.toFixed(3)} (at most 1.3)`)
  console.log(`images by the end of the arrivals: ${verdict.throughput.toFixed(3)} x (at least 0.97)`)
  if (!isMet(verdict)) process.exitCode = 1
}

/** Prints percentiles by class and the criteria for each load. Sets exit code 1 if one is not met. */
export async function benchSchedule(options: ScheduleBenchOptions): Promise<void> {
  if (options.real) return benchReal(options)
  for (const load of options.loads) print(load, compare(load, options), options)
}

/** The costs and runs so far, as saved in the file between two commands. */
type Recorded = { costs?: CostTable; runs: Record<string, Partial<Runs>> }
export const RUNS = ['fcfs', 'steps', 'alone'] as const

async function benchReal(options: ScheduleBenchOptions): Promise<void> {
  const { turbo, full, size, aging, minutes, seed, out, random } = options
  const cache = await mkdtemp(path.join(os.tmpdir(), 'octet-schedule-'))
  const packages = random ? await randomPackages(random, options.directory) : options.packages
  const recipe = {
    turbo: { model: turbo, steps: 4, guidanceScale: 1 },
    full: { model: full, steps: 28, guidanceScale: 4 },
  }
  const real = { packages: packages ?? (await builtInPackages(['fp8'])).directory, cache, size, recipe, aging }
  const recorded: Recorded = out && existsSync(out) ? JSON.parse(await readFile(out, 'utf8')) : { runs: {} }
  const engine = await openEngine(real)
  try {
    const measured = await measureCosts(engine, real)
    const costs = recorded.costs ?? measured
    recorded.costs = costs
    console.log(`alone: turbo ${deviceMs(costs.turbo).toFixed(0)} ms, full ${deviceMs(costs.full).toFixed(0)} ms`)
    for (const load of options.loads) {
      const trace = drawTrace(costs, load, minutes * 60_000, randomOf(seed, `schedule ${load}`))
      const runs = recorded.runs[load] ?? {}
      recorded.runs[load] = runs
      for (const name of options.runs) {
        runs[name] = await runTrace(engine, name === 'alone' ? withoutFlood(trace) : trace, real, name !== 'fcfs')
        if (out) await writeFile(out, JSON.stringify(recorded))
      }
      if (RUNS.every((name) => runs[name])) print(load, runs as Runs, options)
    }
  } finally {
    await engine.stop()
    await rm(cache, { recursive: true })
  }
}

/** The package of a full-size variant with random weights for a GPU, made once in the directory. */
async function randomPackages(variant: FullSize, directory: string): Promise<string> {
  await makeCheckpoint(variant, directory)
  return makePackage({ variant, target: 'cuda-fp8', tier: 'fp8' }, directory)
}
