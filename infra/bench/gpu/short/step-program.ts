// Times a step with FP8 and with 16-bit products, as a child process of `npm run bench -- gpu --short`. Argument: the path of a StepPlan.
import fs from 'node:fs/promises'
import { depthOf } from '../../../checkpoints/published.ts'
import { type TimedStep, withStep } from '../../step.ts'
import { type Line, sidesOf } from '../plan.ts'

export type StepPlan = { readonly variant: 'large' | 'medium'; readonly size: string; readonly runs: number }

const { variant, size, runs }: StepPlan = JSON.parse(await fs.readFile(process.argv[2]!, 'utf8'))
const print = (line: Line) => console.log(JSON.stringify(line))
const fail = (failed: string, error: unknown) => print({ failed, size, error: String(error).slice(0, 500) })

/** Prints one step time, or its error. */
async function printTime(metric: string, time: (runs: number) => Promise<TimedStep>): Promise<void> {
  print({ phase: 'step', size })
  await time(runs).then(
    ({ milliseconds }) => print({ metric, size, value: milliseconds }),
    (error) => fail(metric, error),
  )
}

const step = { variant, tier: 'fp8' as const, size: sidesOf(size).width, batch: 1, blocks: depthOf(variant) }
await withStep(step, async ({ timeFp8, timeHalf }) => {
  await printTime('fp8_ms', timeFp8)
  await printTime('half_ms', timeHalf)
}).catch((error) => fail('run', error))
