// `npm run cost -- --routing`: model switches and latency of containers behind a load balancer, with and without the hint `octet-model`.

import { percentile } from '../bench/statistics.ts'
import { randomOf } from '../command/random.ts'
import figures from './figures.json' with { type: 'json' }
import { estimatePackageGigabytes, estimateServiceSeconds } from './model.ts'
import { drawArrivals, TRAFFIC, type Traffic } from './traffic.ts'

/** `free`: the first container to become free. `hint`: a container of the job's model, unless another one would start it much earlier. */
const POLICIES = ['free', 'hint'] as const
export type Policy = (typeof POLICIES)[number]
export type RoutingOptions = { containers: number; models: number; load: number; traffic: Traffic; jobs?: number }
export type RoutingOutcome = { switches: number; p50: number; p95: number }

const JOBS = 20_000
const FLEETS = [
  { containers: 2, models: 2 },
  { containers: 4, models: 2 },
  { containers: 8, models: 3 },
]
/** Load relative to the capacity. */
const LOADS = [0.05, 0.3, 0.7]
/** "Much earlier" for `hint`, in durations of a model switch. */
const PATIENCE = 2

/** Containers with room for one model each. A switch is one copy of the package from the page cache to the GPU. */
export function simulateRouting(policy: Policy, options: RoutingOptions): RoutingOutcome {
  const { containers, models, load, traffic, jobs = JOBS } = options
  const service = estimateServiceSeconds('large-turbo', 'fp8', 'H100')
  const switching = estimatePackageGigabytes('large-turbo', 'fp8') / figures.cold_start.load_gigabytes_per_second
  const random = randomOf(1, `routing ${JSON.stringify(options)}`)
  const arrivals = drawArrivals(traffic, (load * containers) / service, jobs, random)
  const fleet = Array.from({ length: containers }, (_, k) => ({ free: 0, model: k % models, home: k % models }))
  const latencies: number[] = []
  let switches = 0
  for (const now of arrivals) {
    const model = random.between(0, models - 1)
    const findFirstFree = (among: typeof fleet) => among.reduce((a, b) => (b.free < a.free ? b : a))
    const anywhere = findFirstFree(fleet)
    const own = fleet.filter(({ home }) => home === model)
    const home = own.length > 0 ? findFirstFree(own) : anywhere
    const isWorthwhile = Math.max(home.free, now) <= Math.max(anywhere.free, now) + PATIENCE * switching
    const chosen = policy === 'hint' && isWorthwhile ? home : anywhere
    const isSwitched = chosen.model !== model
    if (isSwitched) switches += 1
    chosen.model = model
    chosen.free = Math.max(chosen.free, now) + service + (isSwitched ? switching : 0)
    latencies.push(chosen.free - now)
  }
  return { switches: switches / jobs, p50: percentile(latencies, 0.5), p95: percentile(latencies, 0.95) }
}

/** Prints switches per job and latency of both policies. */
export function printRouting(): void {
  console.log('traffic  containers  models  load   free: switches, p50, p95       hint: switches, p50, p95')
  for (const traffic of TRAFFIC)
    for (const { containers, models } of FLEETS)
      for (const load of LOADS) {
        const cells = POLICIES.map((policy) => {
          const { switches, p50, p95 } = simulateRouting(policy, { containers, models, load, traffic })
          return `${switches.toFixed(3).padStart(8)} ${p50.toFixed(2).padStart(6)} s ${p95.toFixed(2).padStart(8)} s`
        })
        const fleet = `${traffic.padEnd(9)}${String(containers).padEnd(12)}${String(models).padEnd(8)}`
        console.log(`${fleet}${String(load).padEnd(7)}${cells.join('   ')}`)
      }
}
