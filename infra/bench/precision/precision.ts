// Effect of weight formats relative to float32: errors of network outputs, and PSNR of images.
import fs from 'node:fs/promises'
import path from 'node:path'
import { compile } from '../../../gpu-fn/compile/compile.ts'
import type { Storage } from '../../../gpu-fn/compile/graph/precision.ts'
import type { OpenPipeline } from '../../../gpu-fn/engine/package/open-pipeline.ts'
import type { Manifest } from '../../../gpu-fn/manifest.ts'
import { createSd35Precision } from '../../../gpu-fn/models/sd35/precision.ts'
import { findSensitiveLayers } from '../../../gpu-fn/models/sd35/sensitive-layers.ts'
import {
  condition,
  createConditioningInputs,
  predictVelocity,
  releaseConditions,
} from '../../../gpu-fn/pipeline/denoise.ts'
import { drawGaussianNoise } from '../../../gpu-fn/pipeline/noise.ts'
import { readPosition } from '../../../gpu-fn/pipeline/position.ts'
import { encodePrompts, type PromptEmbeds } from '../../../gpu-fn/pipeline/prompt/prompt.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { writeTinyCheckpoint } from '../../checkpoints/tiny/checkpoint.ts'
import type { TinyVariant } from '../../checkpoints/tiny/variants.ts'
import { makeScratch } from '../../command/scratch.ts'
import { prepareBuiltInPackage } from '../../local/models/built-in-model.ts'
import { render, withPipeline } from '../../local/models/render.ts'
import { type QualityPrompt, readQualityPrompts } from '../../quality/prompts.ts'
import { type Pixels, psnr, readPixels } from '../../receipts/compare-images.ts'
import { computeRelativeError } from '../statistics.ts'
import { type Choose, roundPackage } from './rounded-package.ts'
import {
  type Rounding,
  toFloat16,
  toFp8Int4,
  toFp8Rows,
  toFp8RowsAndColumns,
  toIntegers,
  toSixBits,
} from './roundings.ts'

export type PrecisionBenchOptions = {
  /** `nano`, or a tiny model with random weights. PSNR of images is computed for nano only. */
  readonly model: TinyVariant | 'nano'
  readonly prompts: number
  /** Steps per image; default: those of the model. */
  readonly steps?: number
}

/** Formats of adaLN and T5 weights. `others`: tier that determines the formats of all other weights; null for float32. */
type Configuration = {
  readonly name: string
  readonly adaLN: Rounding
  readonly t5: Rounding
  readonly others: 'fp8' | 'fp8-int4' | null
}

const FLOAT32: Rounding = () => {}
const CONFIGURATIONS: readonly Configuration[] = [
  { name: 'float32, adaLN in 16 bits', adaLN: toFloat16, t5: FLOAT32, others: null },
  { name: 'float32, adaLN in FP8', adaLN: toFp8Rows, t5: FLOAT32, others: null },
  { name: 'float32, adaLN in FP8, column scales', adaLN: toFp8RowsAndColumns, t5: FLOAT32, others: null },
  { name: 'float32, adaLN in 8-bit integers', adaLN: toIntegers(8), t5: FLOAT32, others: null },
  { name: 'fp8', adaLN: toFloat16, t5: toFp8Rows, others: 'fp8' },
  { name: 'fp8, adaLN in FP8', adaLN: toFp8Rows, t5: toFp8Rows, others: 'fp8' },
  { name: 'fp8, adaLN in 8-bit integers', adaLN: toIntegers(8), t5: toFp8Rows, others: 'fp8' },
  { name: 'the same, T5 in 6 bits', adaLN: toIntegers(8), t5: toSixBits, others: 'fp8' },
  { name: 'the same, T5 in 4 bits', adaLN: toIntegers(8), t5: toIntegers(4), others: 'fp8' },
  { name: 'fp8-int4', adaLN: toIntegers(8), t5: toIntegers(4), others: 'fp8-int4' },
]

/** Maximum PSNR in dB, assigned to equal images so that means are finite. */
const SAME_PSNR = 100

const ADALN = /\.adaLN_modulation\.1\.weight$/
const T5_MATRIX = /\.(SelfAttention\.[qkvo]|DenseReluDense\.(wi_0|wi_1|wo))\.weight$/
const TIMESTEPS = Float32Array.of(1000, 900, 700, 400, 100)
const STORED: Record<Storage, Rounding | null> = {
  ...{ float32: null, float16: toFloat16, float8e4m3fn: toFp8Rows, int8: toIntegers(8), int4: toIntegers(4) },
  'fp8-int4': toFp8Int4,
}

/** Rounding by tensor for a configuration. */
function chooseFor({ adaLN, t5, others }: Configuration, { variant, blocks }: Manifest): Choose {
  const sensitive = findSensitiveLayers(variant, { depth: blocks!.gates.length })
  const precision = others && createSd35Precision(others, { sensitive })
  return (network, { name: stored, shape }) => {
    const name = stored.replace(/\[\d+:\d+\]$/, '')
    if (ADALN.test(name)) return adaLN
    const source = network === 'conditioning' ? 'transformer' : network.replace(/^t5_\d+$/, 't5')
    if (source === 't5' && T5_MATRIX.test(name)) return t5
    return precision && STORED[precision.storageOf(source, name, shape)]
  }
}

type Outputs = {
  readonly prompt: Float32Array[]
  readonly modulation: Float32Array[]
  readonly velocity: Float32Array[]
  readonly images: Pixels[]
}

/** Prints the relative errors of prompt embeddings, modulation and velocity of each configuration, and for nano the PSNR of images. */
export async function benchPrecision(options: PrecisionBenchOptions): Promise<void> {
  await using scratch = makeScratch('octet-precision-')
  const directory = await packageOf(options, scratch.directory)
  const { manifest } = await openPackage(directory)
  const prompts = (await readQualityPrompts()).slice(0, options.prompts)
  const run = (at: string) => withPipeline(at, (pipeline) => runAll(pipeline, prompts, options))
  const expected = await run(directory)
  const images = options.model === 'nano' ? ` | PSNR dB, mean | min` : ''
  console.log(`${options.model}, ${prompts.length} prompts, relative to float32`)
  console.log(`configuration | prompt | modulation | velocity${images}`)
  for (const configuration of CONFIGURATIONS) {
    const to = path.join(scratch.directory, 'rounded')
    const out = await roundPackage(directory, to, chooseFor(configuration, manifest))
    console.log(`${configuration.name} | ${describe(await run(out), expected)}`)
    await fs.rm(out, { recursive: true })
  }
}

async function packageOf({ model }: PrecisionBenchOptions, scratch: string): Promise<string> {
  if (model === 'nano') return prepareBuiltInPackage('nano', 'fp32')
  const checkpoint = await writeTinyCheckpoint(path.join(scratch, 'checkpoint'), { variant: model })
  const out = path.join(scratch, 'package')
  await compile({ checkpoint: [checkpoint], out, target: 'cpu', tier: 'fp32', variant: 'custom' })
  return out
}

function describe(given: Outputs, expected: Outputs): string {
  const computeError = (part: 'prompt' | 'modulation' | 'velocity') =>
    computeMean(given[part].map((each, i) => computeRelativeError(each, expected[part][i]!)))
  const errors = [computeError('prompt'), computeError('modulation'), computeError('velocity')].map((each) =>
    each.toFixed(5),
  )
  const decibels = given.images.map((image, i) => Math.min(SAME_PSNR, psnr(image, expected.images[i]!)))
  const psnrs = decibels.length > 0 ? [computeMean(decibels), Math.min(...decibels)].map((each) => each.toFixed(1)) : []
  return [...errors, ...psnrs].join(' | ')
}

const computeMean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length

async function runAll(
  pipeline: OpenPipeline,
  prompts: readonly QualityPrompt[],
  { model, steps }: PrecisionBenchOptions,
): Promise<Outputs> {
  const outputs: Outputs = { prompt: [], modulation: [], velocity: [], images: [] }
  for (const { prompt, seed } of prompts) {
    const encoded = await encode(pipeline, prompt)
    outputs.prompt.push(encoded.embeds)
    await runDenoiser(pipeline, encoded, seed, outputs)
    if (model === 'nano')
      outputs.images.push(await readPixels(await render(pipeline, { prompt, seed, ...(steps && { steps }) })))
  }
  return outputs
}

async function encode({ encoders, package: { manifest } }: OpenPipeline, text: string): Promise<PromptEmbeds> {
  const { prompts } = await encodePrompts(encoders, manifest.text, [{ name: 'prompt', text }], { batched: false })
  return prompts[0]!
}

/** Appends the modulation of all timesteps, and the velocity of noise at each timestep. */
async function runDenoiser(pipeline: OpenPipeline, prompt: PromptEmbeds, seed: number, outputs: Outputs) {
  const { manifest } = pipeline.package
  const { channels, downsample, patch_size } = manifest.latent
  const [rows, columns] = [manifest.defaults.height / downsample, manifest.defaults.width / downsample]
  const latent = { data: drawGaussianNoise(seed, channels * rows * columns), dims: [1, channels, rows, columns] }
  const position = await readPosition(pipeline.package, rows / patch_size, columns / patch_size)
  const { modulation } = await pipeline.conditioning.run(createConditioningInputs([prompt], TIMESTEPS))
  outputs.modulation.push(modulation!.data as Float32Array)
  const conditions = await condition(pipeline, [prompt], TIMESTEPS, { batched: false })
  const options = { guidanceScale: 1, position, signal: new AbortController().signal }
  for (const step of TIMESTEPS.keys()) {
    outputs.velocity.push(Float32Array.from(await predictVelocity(latent, conditions, step, options)))
  }
  releaseConditions(conditions)
}
