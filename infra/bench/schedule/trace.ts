// Job traces: arrivals of accounts that share one GPU, and the work of their jobs.
import type { Random } from '../../command/random.ts'
import { nextArrivalMs } from '../hostile/open-loop.ts'

/** Milliseconds of a job's phases on the device, and of its file on the host. */
export type Costs = { encode: number; step: number; decode: number; file: number; steps: number }
export const CLASSES = ['turbo', 'full'] as const
export type JobClass = (typeof CLASSES)[number]
export type CostTable = Record<JobClass, Costs>

/** Large on an H200 at 1024 x 1024: docs/performance.md (`npm run bench -- step`, `npm run bench -- gpu`). */
export const H200: CostTable = {
  turbo: { encode: 25, step: 41.8, decode: 29, file: 35, steps: 4 },
  full: { encode: 40, step: 80, decode: 29, file: 35, steps: 28 },
}

/** `at` is milliseconds from the start. */
export type Arrival = { id: string; account: string; kind: JobClass; at: number }

export const FLOODING = 'flooding'
const HONEST = ['honest-1', 'honest-2', 'honest-3']
const TURBO_SHARE = 0.8
/** Shares of the load: each honest account, and the flooding one. */
const HONEST_SHARE = 0.1
/** Jobs that the flooding account submits at once. */
const BURST = 10

export const deviceMs = ({ encode, step, decode, steps }: Costs): number => encode + step * steps + decode
const meanMs = (costs: CostTable) => TURBO_SHARE * deviceMs(costs.turbo) + (1 - TURBO_SHARE) * deviceMs(costs.full)

/** Poisson arrivals whose work is `load` times the device's capacity: 30 % from three honest accounts, the rest in bursts from one. */
export function drawTrace(costs: CostTable, load: number, durationMs: number, random: Random): Arrival[] {
  const perSecond = (load * 1000) / meanMs(costs)
  const kind = () => (random.chance(TURBO_SHARE) ? 'turbo' : 'full')
  const trace: Arrival[] = []
  const draw = (account: string, rate: number, burst: number) => {
    for (let at = nextArrivalMs(rate, random); at < durationMs; at += nextArrivalMs(rate, random))
      for (let i = 0; i < burst; i++) trace.push({ id: `${account}-${trace.length}`, account, kind: kind(), at })
  }
  for (const account of HONEST) draw(account, perSecond * HONEST_SHARE, 1)
  draw(FLOODING, (perSecond * (1 - HONEST.length * HONEST_SHARE)) / BURST, BURST)
  return trace.sort((a, b) => a.at - b.at)
}

/** The same arrivals without the flooding account. */
export const withoutFlood = (trace: readonly Arrival[]): Arrival[] =>
  trace.filter(({ account }) => account !== FLOODING)
