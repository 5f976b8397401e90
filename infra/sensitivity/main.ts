// `npm run sensitivity`: per-layer error of 4-bit weights, used to select the FP8 layers of tier fp8-int4.
import fs from 'node:fs/promises'
import path from 'node:path'
import { SingleBar } from 'cli-progress'
import { Command, Option } from 'commander'
import * as z from 'zod'
import { isSensitive, type SensitivityTable } from '../../gpu-fn/models/sd35/sensitive-layers.ts'
import table from '../../gpu-fn/models/sd35/sensitivity.json' with { type: 'json' }
import { openPackage } from '../../gpu-fn/weights/packages.ts'
import { toFloat16, toFp8Int4, toFp8Rows } from '../bench/precision/roundings.ts'
import { endOnSignals } from '../command/end-on-signals.ts'
import { parseWholeNumber } from '../command/numbers.ts'
import { makeScratch } from '../command/scratch.ts'
import { BUILT_IN_MODELS, type BuiltInModel, NANO, prepareBuiltInPackage } from '../local/models/built-in-model.ts'
import { ROOT } from '../local/models/package-cache.ts'
import { computeBytes, findFrontier, type Layer, type Point, sortByEffect } from './pareto.ts'
import { plotSvg } from './plot.ts'
import { type CalibrationPrompt, recordRuns } from './record.ts'
import { type RoundingOf, Trials } from './trials.ts'

type Flags = { model: BuiltInModel; prompts: number; runs: number; write?: true; out: string }

const TABLE = path.join(ROOT, 'gpu-fn/models/sd35/sensitivity.json')
const DOCS = path.join(ROOT, 'docs')
const PACKED = /^(joint_blocks\.\d+\.(?:x_block|context_block)\.mlp\.fc[12])\.weight$/
const IN_FP8 = /^joint_blocks\.\d+\.(x_block|context_block)\.(attn2?\.(qkv|proj)|mlp\.fc[12])\.weight(\[\d+:\d+\])?$/

const flags = new Command('sensitivity')
  .description(
    'Measures the error of the velocity with one layer in 4 bits at a time, and of tier fp8-int4 as more layers stay in FP8.',
  )
  .addOption(new Option('--model <name>', 'built-in model').choices(BUILT_IN_MODELS).default('nano'))
  .option('--prompts <count>', 'calibration prompts', parseWholeNumber, 4)
  .option('--runs <count>', 'runs of the denoiser per prompt', parseWholeNumber, 3)
  .option('--write', "replace the model's errors in gpu-fn/models/sd35/sensitivity.json, and its plot in docs")
  .option('--out <directory>', 'directory of the plot', 'out/sensitivity')
  .parse()
  .opts<Flags>()

endOnSignals()
await measure(flags)

async function measure({ model, prompts: count, runs, write, out }: Flags): Promise<void> {
  await using scratch = makeScratch('octet-sensitivity-')
  const directory = await prepareBuiltInPackage(model, 'fp32')
  const prompts = (await readPrompts()).slice(0, count)
  const recorded = await recordRuns(directory, prompts, runs)
  const trials = await Trials.open(await openPackage(directory), scratch.directory, recorded)
  const layers = sortByEffect(await layersOf(trials))
  const points = await pointsOf(trials, layers)
  const errors = Object.fromEntries(layers.map(({ name, error }) => [name, Number(error.toPrecision(3))]))
  const chosen = layers.filter(({ name }) => isSensitive(errors, name)).length
  report(model, layers, points, chosen)
  const title = `${model}: MLP layers of largest effect in FP8, the others in 4 bits`
  const svg = plotSvg({ title, points, frontier: findFrontier(points), chosen })
  const to = write ? DOCS : path.resolve(out)
  await fs.mkdir(to, { recursive: true })
  const plot = path.join(to, `sensitivity-${model}.svg`)
  await fs.writeFile(plot, svg)
  console.log(`plot: ${plot}`)
  const updated: SensitivityTable = { ...table, [model]: errors }
  if (write) await fs.writeFile(TABLE, `${JSON.stringify(updated, null, 2)}\n`)
}

/** Prompts disjoint from those of `npm run quality`. */
async function readPrompts(): Promise<CalibrationPrompt[]> {
  const text = await fs.readFile(path.join(NANO, 'world-prompts.json'), 'utf8')
  return z.array(z.object({ prompt: z.string(), seed: z.int() })).parse(JSON.parse(text))
}

/** Error relative to float32 with a single layer in 4 bits, for each layer. */
async function layersOf(trials: Trials): Promise<Layer[]> {
  const candidates = trials.weights.filter(({ name }) => PACKED.test(name))
  const errors = await runWithProgress('layers', candidates, ({ name: only }) =>
    trials.errorWith((name) => (name === only ? toFp8Int4 : null)),
  )
  return candidates.map(({ name, shape }, i) => ({
    ...{ name: PACKED.exec(name)![1]!, error: errors[i]! },
    weights: shape.reduce((product, dim) => product * dim, 1),
  }))
}

/** Size and error of the tier with the first 0, 1, 2, … layers in FP8. */
async function pointsOf(trials: Trials, layers: readonly Layer[]): Promise<Point[]> {
  const all = trials.weights.reduce((sum, { name, shape }) => {
    const count = shape.reduce((product, dim) => product * dim, 1)
    return sum + count * (IN_FP8.test(name) ? 1 : shape.length > 1 ? 2 : 4)
  }, 0)
  const counts = Array.from({ length: layers.length + 1 }, (_, kept) => kept)
  const errors = await runWithProgress('tiers', counts, (kept) => trials.errorWith(createRoundings(layers, kept)))
  return counts.map((kept) => ({ kept, bytes: computeBytes(layers, kept, all), error: errors[kept]! }))
}

function createRoundings(layers: readonly Layer[], kept: number): RoundingOf {
  const packed = new Set(layers.slice(kept).map(({ name }) => `${name}.weight`))
  return (name, shape) => {
    if (packed.has(name)) return toFp8Int4
    if (IN_FP8.test(name)) return toFp8Rows
    return shape.length > 1 ? toFloat16 : null
  }
}

async function runWithProgress<T>(
  name: string,
  items: readonly T[],
  run: (item: T) => Promise<number>,
): Promise<number[]> {
  const bar = new SingleBar({
    format: `${name} |{bar}| {value} of {total} · {eta_formatted} left`,
    clearOnComplete: true,
  })
  bar.start(items.length, 0)
  const results: number[] = []
  for (const item of items) {
    results.push(await run(item))
    bar.increment()
  }
  bar.stop()
  return results
}

function report(model: string, layers: readonly Layer[], points: readonly Point[], chosen: number): void {
  const formatPercent = (error: number) => `${(error * 100).toFixed(2)} %`
  console.log(`${model}: error of the velocity with one layer in 4 bits, largest effect first`)
  for (const [i, { name, error }] of layers.entries())
    console.log(`${i < chosen ? 'FP8   ' : '4 bits'} ${formatPercent(error)} ${name}`)
  for (const [what, kept] of [
    ['all in 4 bits', 0],
    ['tier fp8-int4', chosen],
    ['all in FP8', layers.length],
  ] as const)
    console.log(`${what}: ${(points[kept]!.bytes / 1e6).toFixed(2)} MB, ${formatPercent(points[kept]!.error)}`)
}
