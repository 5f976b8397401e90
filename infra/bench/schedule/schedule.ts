// `npm run bench -- schedule`: the scheduler of the GPU function against first come, first served on the same trace.
import { benchReal, loadsOf, type RealOptions } from './real.ts'
import { judge, printComparison, printOverload } from './report.ts'
import { createFirstComeFirstServed, simulate, stepScheduler } from './simulate.ts'
import { drawLoad, H200, OVERLOAD, removeFlood, slowDown } from './trace.ts'

/**
 * `real`: run GPU functions instead of a simulation. The model and the size apply to these only. `slowdown`: factor of the simulated phase
 * durations; the load is computed without it.
 */
export type ScheduleBenchOptions = RealOptions & { real?: boolean; slowdown: number }
type Settings = Pick<ScheduleBenchOptions, 'minutes' | 'seed' | 'aging'> & { slowdown?: number }

/** Simulates one trace under both policies. */
export function compare(load: number, { minutes, seed, aging, slowdown = 1 }: Settings) {
  const costs = slowDown(H200, slowdown)
  const trace = drawLoad(H200, load, minutes, seed)
  const runs = {
    fcfs: simulate(trace, costs, createFirstComeFirstServed()),
    steps: simulate(trace, costs, stepScheduler(aging * 1000)),
    alone: simulate(removeFlood(trace), costs, stepScheduler(aging * 1000)),
  }
  return { ...runs, verdict: judge(runs, { load, minutes, seed, aging }) }
}

/** Prints percentiles by class and the criteria for each load. Sets exit code 1 if one is not met. */
export async function benchSchedule(options: ScheduleBenchOptions): Promise<void> {
  if (options.real) return benchReal(options)
  const { minutes, overload, seed, aging, slowdown } = options
  for (const load of loadsOf(options)) printComparison(compare(load, options), { load, minutes, seed, aging })
  if (overload === 0) return
  const trace = drawLoad(H200, OVERLOAD, overload, seed)
  const outcome = simulate(trace, slowDown(H200, slowdown), stepScheduler(aging * 1000))
  printOverload(outcome, { load: OVERLOAD, minutes: overload, seed, aging })
}
