// The samples of guidance on several devices, which are native sessions of the CPU here.
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import {
  type OpenPipeline,
  openPipeline,
  type PipelineOptions,
} from '../../../../gpu-fn/engine/package/open-pipeline.ts'
import type { Package } from '../../../../gpu-fn/manifest.ts'
import { computeConditions } from '../../../../gpu-fn/pipeline/conditions.ts'
import { type Denoiser, predictVelocity, releaseConditions } from '../../../../gpu-fn/pipeline/denoise.ts'
import { drawGaussianNoise } from '../../../../gpu-fn/pipeline/noise.ts'
import type { Pipeline } from '../../../../gpu-fn/pipeline/pipeline.ts'
import { type Txt2ImgRequest, txt2img } from '../../../../gpu-fn/pipeline/txt2img.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'
import { findMinimumBudget } from '../../../support/checkpoints/minimum-budget.ts'
import { BINDING } from '../../../support/native/addon.ts'

const open = (devices: number, options: PipelineOptions = {}) =>
  openPipeline(pkg, { devices, binding: BINDING, threads: 1, ...options })

let pkg: Package
let three: OpenPipeline
beforeAll(async () => {
  pkg = await openPackage(await compileTiny({ tier: 'fp8' }))
  three = await open(3)
})
afterAll(() => three.release())

const REQUEST: Txt2ImgRequest = {
  ...{ prompt: 'a red heart', negative_prompt: 'blurry', seed: 1, width: 64, height: 64, steps: 4 },
  ...{ guidance_scale: 3, count: 1, output_format: 'png', output_quality: 90, text_convention: 'diffusers' },
}
const skip_layer_guidance = { layers: [1], scale: 2, start: 0, stop: 1 }

async function imagesOf(pipeline: Pipeline, request: Txt2ImgRequest, parallel: boolean) {
  const images: Buffer[] = []
  for await (const event of txt2img(pipeline, request, new AbortController().signal, { parallel }))
    if (event.type === 'image') images.push(Buffer.from(event.data))
  return images
}

test.for([
  ['guidance', {}],
  ['guidance of some steps, and two images', { guidance_interval: { start: 0.25, stop: 0.75 }, count: 2 }],
  ['skip-layer guidance', { skip_layer_guidance }],
  ['no guidance', { guidance_scale: 1 }],
] satisfies [string, Partial<Txt2ImgRequest>][])(
  'two and three devices produce the same image as one that runs each sample alone: %s',
  async ([, overrides]) => {
    const request = { ...REQUEST, ...overrides }
    const expected = await imagesOf({ ...three, batched: false }, request, false)
    const two = { ...three, others: three.others.slice(0, 1) }
    expect(await imagesOf(two, request, true)).toEqual(expected)
    expect(await imagesOf(three, request, true)).toEqual(expected)
    // Without further devices, the same request runs on one device.
    const one = { ...three, others: [] }
    expect(await imagesOf(one, request, true)).toEqual(await imagesOf(three, request, false))
  },
)

test('the velocity differs from that of a batch only by rounding', async () => {
  const { channels, downsample } = pkg.manifest.latent
  const { joint_width, pooled_width } = pkg.manifest.text
  const prompts = [1, 2].map((seed) => ({
    ...{ embeds: drawGaussianNoise(seed, 8 * joint_width), rows: 8, pooled: drawGaussianNoise(seed, pooled_width) },
  }))
  const side = 64 / downsample
  const latent = { data: drawGaussianNoise(3, channels * side * side), dims: [1, channels, side, side] }
  const options = { guidanceScale: 3, position: undefined, signal: new AbortController().signal }
  const velocityOf = async (denoisers: readonly [Denoiser, ...Denoiser[]]) => {
    const compute = computeConditions(denoisers, prompts, { manifest: pkg.manifest, batched: true })
    const conditions = await compute(Float32Array.of(700), 'guided')
    onTestFinished(() => releaseConditions(conditions))
    return predictVelocity(latent, conditions, 0, options)
  }
  const [batch, parallel] = [await velocityOf([three]), await velocityOf([three, ...three.others])]
  const largest = batch.reduce((max, value) => Math.max(max, Math.abs(value)), 0)
  for (const [i, value] of parallel.entries()) expect(Math.abs(value - batch[i]!)).toBeLessThan(1e-5 * largest)
})

test('the other devices hold the denoiser only while it is resident on the first one', async () => {
  const opened: string[] = []
  const tight = await open(2, { budget: findMinimumBudget(pkg), onOpen: (network) => opened.push(network) })
  onTestFinished(() => tight.release())
  expect(tight.plan.offloaded).toContain('transformer')
  expect(tight.others).toEqual([])
  expect(opened).not.toContain('transformer')
  expect(await imagesOf(tight, REQUEST, true)).toEqual(await imagesOf(tight, REQUEST, false))
})

test('all devices unload and load the denoiser together', async () => {
  const opened: string[] = []
  const pipeline = await open(2, { onOpen: (network) => opened.push(network) })
  onTestFinished(() => pipeline.release())
  const expected = await imagesOf(pipeline, REQUEST, true)
  const takeDenoiserSessions = () => opened.splice(0).filter((name) => ['conditioning', 'transformer'].includes(name))
  expect(takeDenoiserSessions()).toHaveLength(4)
  await pipeline.suspend()
  await pipeline.resume()
  expect(takeDenoiserSessions()).toHaveLength(4)
  expect(await imagesOf(pipeline, REQUEST, true)).toEqual(expected)
})
