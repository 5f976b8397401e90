// Job traces: arrivals of accounts that share one GPU, and the work of their jobs.
import { type Random, randomOf } from '../../command/random.ts'
import { drawNextArrivalMs } from '../hostile/open-loop.ts'

/** Milliseconds of a job's phases on the device, and of its file on the host. */
export type Costs = { encode: number; step: number; decode: number; file: number; steps: number }
export const CLASSES = ['turbo', 'full'] as const
export type JobClass = (typeof CLASSES)[number]
export type CostTable = Record<JobClass, Costs>

/** Large on an H200 at 1024 x 1024: docs/performance.md (`npm run bench -- step`, `npm run bench -- gpu`). */
export const H200: CostTable = {
  turbo: { encode: 25, step: 35.5, decode: 29, file: 35, steps: 4 },
  full: { encode: 40, step: 71, decode: 29, file: 35, steps: 28 },
}

/** `at` is milliseconds from the start. */
export type Arrival = { id: string; account: string; kind: JobClass; at: number }

export const FLOODING = 'flooding'
const HONEST = ['honest-1', 'honest-2', 'honest-3']
const TURBO_SHARE = 0.8
/** Shares of the load: each honest account, and the flooding one. */
const HONEST_SHARE = 0.1
const FLOODING_SHARE = 1 - HONEST.length * HONEST_SHARE
/** Jobs that the flooding account submits at once. */
const BURST = 10

/** Multiplies the durations of the device phases by `factor`, to simulate a warm GPU. */
export const slowDown = ({ turbo, full }: CostTable, factor: number): CostTable => {
  const slow = ({ encode, step, decode, ...rest }: Costs): Costs => ({
    ...{ encode: factor * encode, step: factor * step, decode: factor * decode, ...rest },
  })
  return { turbo: slow(turbo), full: slow(full) }
}

export const estimateDeviceMs = ({ encode, step, decode, steps }: Costs): number => encode + step * steps + decode
const estimateMeanMs = (costs: CostTable) =>
  TURBO_SHARE * estimateDeviceMs(costs.turbo) + (1 - TURBO_SHARE) * estimateDeviceMs(costs.full)

/** Poisson arrivals whose work is on average `load` times the capacity: 30 % from three honest accounts, the rest in bursts from one. */
function drawTrace(costs: CostTable, load: number, durationMs: number, random: Random): Arrival[] {
  const perSecond = (load * 1000) / estimateMeanMs(costs)
  const drawKind = () => (random.chance(TURBO_SHARE) ? 'turbo' : 'full')
  const trace: Arrival[] = []
  const draw = (account: string, rate: number, burst: number) => {
    for (let at = drawNextArrivalMs(rate, random); at < durationMs; at += drawNextArrivalMs(rate, random))
      for (let i = 0; i < burst; i++) trace.push({ id: `${account}-${trace.length}`, account, kind: drawKind(), at })
  }
  for (const account of HONEST) draw(account, perSecond * HONEST_SHARE, 1)
  draw(FLOODING, (perSecond * FLOODING_SHARE) / BURST, BURST)
  return trace.sort((a, b) => a.at - b.at)
}

/** The larger relative deviation of the work of honest accounts and of the flooding one from their shares of the load. */
function deviationOf(trace: readonly Arrival[], costs: CostTable, loadMs: number): number {
  const computeWork = (arrivals: readonly Arrival[]) =>
    arrivals.reduce((sum, { kind }) => sum + estimateDeviceMs(costs[kind]), 0)
  const honest = computeWork(removeFlood(trace)) / (loadMs * (1 - FLOODING_SHARE))
  const flooding = (computeWork(trace) - computeWork(removeFlood(trace))) / (loadMs * FLOODING_SHARE)
  return Math.max(Math.abs(honest - 1), Math.abs(flooding - 1))
}

/** The load of the open-loop test of refusals, relative to the capacity. */
export const OVERLOAD = 2
/** The permitted deviation of a trace's work from the load, and the number of draws after which the closest one is used. */
const DEVIATION = { max: 0.05, draws: 200 }

/**
 * The arrivals of a load, which the seed determines: Poisson arrivals of `load` times the device's capacity, 30 % of it from three honest
 * accounts, the rest in bursts from one. A short trace is drawn again until its work is close to the load.
 */
export function drawLoad(costs: CostTable, load: number, minutes: number, seed: number): Arrival[] {
  const random = randomOf(seed, `schedule ${load}`)
  const durationMs = minutes * 60_000
  let best: { trace: Arrival[]; deviation: number } | undefined
  for (let draw = 0; draw < DEVIATION.draws && !(best && best.deviation <= DEVIATION.max); draw++) {
    const trace = drawTrace(costs, load, durationMs, random)
    const deviation = deviationOf(trace, costs, load * durationMs)
    if (!best || deviation < best.deviation) best = { trace, deviation }
  }
  return best!.trace
}

/** The same arrivals without the flooding account. */
export const removeFlood = (trace: readonly Arrival[]): Arrival[] => trace.filter(({ account }) => account !== FLOODING)
