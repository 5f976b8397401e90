// Runs the loads on GPU functions: with the scheduler, and first come, first served.
import path from 'node:path'
import { prepareBuiltInPackages } from '../../local/models/built-in-model.ts'
import { type GpuVariant, makeCheckpoint, makePackage, type Target } from '../gpu/packages.ts'
import { type Watch, withFunction } from './gpu-function.ts'
import { type Recipe, type ReplayedTrace, replay } from './replay.ts'
import { printComparison, printMemory, printOutcome, printOverload } from './report.ts'
import { type Arrival, CLASSES, type CostTable, drawLoad, type JobClass, OVERLOAD, removeFlood } from './trace.ts'

export type RealOptions = {
  /** Duration of each load of `loads`, and of the load of twice the capacity; 0 omits them. */
  minutes: number
  overload: number
  loads: number[]
  seed: number
  /** Seconds. */
  aging: number
  /** The built-in models, or an architecture with random weights, made in `directory`. */
  model: GpuVariant | 'nano'
  target: Target
  directory: string
  size: number
  /** GPU indices on this host. Traces run in parallel, one per GPU. By default, one trace runs at a time on any GPU. */
  gpus?: readonly string[]
}
type Setup = { packages: string; recipe: Recipe; options: RealOptions; gpu?: string | undefined }

const TURBO = { tier: 'fp8', steps: 4, guidance_scale: 1 } as const
const FULL = { tier: 'fp8', steps: 28, guidance_scale: 4 } as const
/** Jobs of each class that measure the capacity. */
const MEASURED: Record<JobClass, number> = { turbo: 12, full: 3 }
const NO_AGING_SECONDS = 86_400

/** Creates the packages: one per class for nano; for the other models, one package serves both classes. */
async function prepare(options: RealOptions): Promise<Setup> {
  const { model, target, directory } = options
  if (model === 'nano') {
    if (target !== 'cpu') throw new Error(`--model nano has packages for --target cpu only; given ${target}`)
    const packages = (await prepareBuiltInPackages(['fp8'])).directory
    return { packages, recipe: { turbo: { model: 'nano-turbo', ...TURBO }, full: { model, ...FULL } }, options }
  }
  const own = path.join(directory, model)
  await makeCheckpoint(model, own)
  const packages = await makePackage({ variant: model, target, tier: 'fp8' }, own)
  return { packages, recipe: { turbo: { model, ...TURBO }, full: { model, ...FULL } }, options }
}

type Replay = (trace: readonly Arrival[], untilMs?: number) => Promise<ReplayedTrace>

/** Starts a GPU function, which then measures its step times with one job of each class. */
function withReplay<T>(setup: Setup, isFair: boolean, use: (run: Replay, watch: Watch) => T) {
  const { packages, recipe, options, gpu } = setup
  const { size, aging } = options
  const preload = [...new Set(CLASSES.map((kind) => `${recipe[kind].model}:${recipe[kind].tier}`))]
  const own = {
    packages,
    preload,
    size,
    agingSeconds: isFair ? aging : NO_AGING_SECONDS,
    gpu,
  }
  return withFunction(own, async (url, watch) => {
    const run: Replay = (trace, untilMs) => replay(trace, { url, recipe, size, isFair, untilMs })
    await run(CLASSES.flatMap((kind) => jobsOf(kind, 'warm', 1)))
    return use(run, watch)
  })
}

const jobsOf = (kind: JobClass, account: string, count: number): Arrival[] =>
  Array.from({ length: count }, (_, i) => ({ id: `${account}-${kind}-${i}`, account, kind, at: 0 }))

/** Runs a trace on a fresh GPU function, and prints its duration. */
async function runTrace(setup: Setup, name: string, trace: readonly Arrival[], isFair: boolean, untilMs?: number) {
  const run = await withReplay(setup, isFair, (replayed, watch) => watch(() => replayed(trace, untilMs)))
  const { served, failed, endMs } = run
  console.log(`${name}: ${served.length} of ${trace.length} jobs in ${(endMs / 1000).toFixed(0)} s`)
  for (const each of failed.slice(0, 5)) console.log(`accepted, without an image: ${each}`)
  if (failed.length > 0) process.exitCode = 1
  return run
}

/** Milliseconds of a whole job of each class, as the cost of one step: its share of the time of several jobs in a row. */
const measureCosts = (setup: Setup): Promise<CostTable> =>
  withReplay(setup, false, async (run) => {
    const costs: Partial<CostTable> = {}
    for (const kind of CLASSES) {
      const { endMs, failed } = await run(jobsOf(kind, 'one', MEASURED[kind]))
      if (failed[0]) throw new Error(failed[0])
      costs[kind] = { encode: 0, step: endMs / MEASURED[kind], decode: 0, file: 0, steps: 1 }
    }
    return costs as CostTable
  })

/** Starts functions in order, at most one at a time per GPU. */
async function onGpus<T, Results extends T[]>(
  gpus: readonly (string | undefined)[] = [undefined],
  runs: { [I in keyof Results]: (gpu: string | undefined) => Promise<Results[I]> },
): Promise<Results> {
  const next = runs.entries()
  const results: T[] = []
  const serve = async (gpu: string | undefined) => {
    for (const [i, run] of next) results[i] = await run(gpu)
  }
  await Promise.all(gpus.map(serve))
  return results as Results
}

export const loadsOf = ({ minutes, loads }: RealOptions) => (minutes === 0 ? [] : loads)

/** Prints the tables of every load. Sets exit code 1 if a criterion is not met, or an accepted job has no image. */
export async function benchReal(options: RealOptions): Promise<void> {
  const { minutes, overload, seed, aging } = options
  const setup = await prepare(options)
  const costs = await measureCosts(setup)
  const [turbo, full] = CLASSES.map((kind) => costs[kind].step.toFixed(0))
  console.log(
    `${options.model}, ${options.target}, ${options.size}²: one Turbo job ${turbo} ms, one full job ${full} ms`,
  )
  for (const load of loadsOf(options)) {
    const trace = drawLoad(costs, load, minutes, seed)
    // Printed after each trace: the complete comparison takes three times as long.
    const run = async (gpu: string | undefined, name: string, jobs: readonly Arrival[], isFair: boolean) => {
      const outcome = await runTrace({ ...setup, gpu }, `load ${load}, ${name}`, jobs, isFair)
      printOutcome(name, outcome, { load, minutes, seed, aging })
      return outcome
    }
    const [steps, alone, fcfs] = await onGpus(options.gpus, [
      (gpu) => run(gpu, 'scheduler', trace, true),
      (gpu) => run(gpu, 'honest accounts alone', removeFlood(trace), true),
      (gpu) => run(gpu, 'first come, first served', trace, false),
    ])
    printComparison({ fcfs, steps, alone }, { load, minutes, seed, aging })
    printMemory(steps.memory)
  }
  if (overload === 0) return
  const trace = drawLoad(costs, OVERLOAD, overload, seed)
  const outcome = await runTrace(setup, `load ${OVERLOAD}, scheduler`, trace, true, overload * 60_000)
  printOverload(outcome, { load: OVERLOAD, minutes: overload, seed, aging })
  console.log(`accepted jobs without an image: ${outcome.failed.length}`)
  printMemory(outcome.memory)
}
