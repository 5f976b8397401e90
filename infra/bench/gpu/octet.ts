// Measures one package with the engine's pipeline: `node infra/bench/gpu/octet.ts PLAN`, as run by `npm run bench -- gpu`.
import fs from 'node:fs/promises'
import path from 'node:path'
import { describePlan } from '../../../gpu-fn/engine/package/memory-plan.ts'
import { type OpenPipeline, openPipeline } from '../../../gpu-fn/engine/package/open-pipeline.ts'
import { decodeLatent } from '../../../gpu-fn/pipeline/decode.ts'
import { condition, predictVelocity, releaseConditions } from '../../../gpu-fn/pipeline/denoise.ts'
import { drawGaussianNoise } from '../../../gpu-fn/pipeline/noise.ts'
import { readPosition } from '../../../gpu-fn/pipeline/position.ts'
import { encodePrompts } from '../../../gpu-fn/pipeline/prompt/prompt.ts'
import type { Tensor } from '../../../gpu-fn/runtime/session.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { render } from '../../local/models/render.ts'
import { computeRelativeError, median } from '../statistics.ts'
import { type Line, type OctetPlan, sidesOf } from './plan.ts'

const plan: OctetPlan = JSON.parse(await fs.readFile(process.argv[2]!, 'utf8'))
const print = (line: Line) => console.log(JSON.stringify(line))

/** Runs a part of the measurement. Its failure does not affect the other parts. */
async function measurePart(name: string, size: string | null, run: () => Promise<void>): Promise<void> {
  print({ phase: name, size })
  try {
    await run()
  } catch (error) {
    print({ failed: name, size, error: String(error).slice(0, 500) })
  }
}

async function secondsOf(run: () => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await run()
  return (performance.now() - start) / 1000
}

async function measureMedianSeconds(run: () => Promise<unknown>, warmUps = 2): Promise<number> {
  const first: number[] = []
  for (let i = 0; i < warmUps; i++) first.push(await secondsOf(run))
  const times: number[] = []
  for (let i = 0; i < plan.runs; i++) times.push(await secondsOf(run))
  const formatMsList = (seconds: readonly number[]) => seconds.map((each) => (1000 * each).toFixed(1)).join(' ')
  print({ note: `ms of each run: ${formatMsList(first)} | ${formatMsList(times)}` })
  return median(times)
}

async function readReference(name: string): Promise<Float32Array> {
  const bytes = await fs.readFile(path.join(plan.reference, `${name}.f32`))
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
}

/** The error of values, relative to those of the reference. */
const errorOf = async (given: Float32Array, name: string) => computeRelativeError(given, await readReference(name))

function drawNoise({ package: { manifest } }: OpenPipeline, size: string): { data: Float32Array; dims: number[] } {
  const { width, height } = sidesOf(size)
  const { channels, downsample } = manifest.latent
  const dims = [1, channels, height / downsample, width / downsample]
  return {
    data: drawGaussianNoise(
      plan.seed,
      dims.reduce((n, dim) => n * dim),
    ),
    dims,
  }
}

function renderImage(pipeline: OpenPipeline, size: string, steps: number, guidanceScale: number): Promise<Uint8Array> {
  const request = { prompt: plan.prompt, seed: plan.seed, steps, guidance_scale: guidanceScale, ...sidesOf(size) }
  return render(pipeline, request, (event) => {
    if (event.type === 'finished') print({ note: `s of each part: ${JSON.stringify(event.timings)}` })
  })
}

function encode({ encoders, package: { manifest } }: OpenPipeline) {
  const prompts = [{ name: 'prompt', text: plan.prompt }]
  return encodePrompts(encoders, manifest.text, prompts, { batched: false })
}

async function measureEncode(pipeline: OpenPipeline): Promise<void> {
  const { prompts } = await encode(pipeline)
  print({ metric: 'prompt_error', value: await errorOf(prompts[0]!.embeds, 'prompt_embeds') })
  print({ metric: 'pooled_error', value: await errorOf(prompts[0]!.pooled, 'pooled') })
  print({ metric: 'encode_ms', value: 1000 * (await measureMedianSeconds(() => encode(pipeline))) })
}

async function measureForward(pipeline: OpenPipeline, size: string): Promise<void> {
  const { width, height } = sidesOf(size)
  const { manifest } = pipeline.package
  const patch = manifest.latent.downsample * manifest.latent.patch_size
  const embeds = await readReference('prompt_embeds')
  const prompt = { embeds, rows: embeds.length / manifest.text.joint_width, pooled: await readReference('pooled') }
  const conditions = await condition(pipeline, [prompt], Float32Array.of(plan.timestep), {
    batched: false,
  })
  const position: Tensor | undefined = await readPosition(pipeline.package, height / patch, width / patch)
  const latent = drawNoise(pipeline, size)
  const options = { guidanceScale: 1, position, signal: new AbortController().signal }
  const forward = () => predictVelocity(latent, conditions, 0, options)
  print({ metric: 'velocity_error', size, value: await errorOf(await forward(), `velocity-${size}`) })
  print({ metric: 'forward_ms', size, value: 1000 * (await measureMedianSeconds(forward)) })
  releaseConditions(conditions)
}

async function measureDecode(pipeline: OpenPipeline, size: string): Promise<void> {
  const latent = drawNoise(pipeline, size)
  const { image } = await pipeline.vaeDecoder.run({ latent })
  print({ metric: 'image_error', size, value: await errorOf(image!.data as Float32Array, `image-${size}`) })
  const decode = () => decodeLatent(pipeline.vaeDecoder, latent, null)
  print({ metric: 'decode_ms', size, value: 1000 * (await measureMedianSeconds(decode)) })
}

async function measureTurbo(pipeline: OpenPipeline, size: string): Promise<void> {
  let png: Uint8Array = new Uint8Array()
  const make = async () => {
    png = await renderImage(pipeline, size, 4, 1)
  }
  // With a memory budget, the second image maps the weight files.
  print({ metric: 'turbo_s', size, value: await measureMedianSeconds(make) })
  const file = path.join(plan.reference, `${plan.system}-${size}.png`)
  await fs.writeFile(file, png)
  print({ image: file, size })
}

async function measureFull(pipeline: OpenPipeline, size: string): Promise<void> {
  await renderImage(pipeline, size, 1, 3.5)
  print({ metric: 'full_s', size, value: await secondsOf(() => renderImage(pipeline, size, plan.steps, 3.5)) })
}

async function main(): Promise<void> {
  const pkg = await openPackage(plan.package)
  const bytes = Object.values(pkg.manifest.files).reduce((sum, file) => sum + file.bytes, 0)
  print({ phase: 'load' })
  const start = performance.now()
  const pipeline = await openPipeline(pkg, {
    budget: plan.budget,
    onPlan: (each) => print({ note: JSON.stringify(describePlan(each)) }),
  })
  const seconds = (performance.now() - start) / 1000
  if (pipeline.note) print({ note: pipeline.note })
  print({ metric: 'weights_gb', value: bytes / 1e9 })
  print({ metric: 'load_s', value: seconds })
  // Within a budget, most weights are loaded when they are used.
  if (plan.budget === undefined) print({ metric: 'load_gb_per_s', value: bytes / 1e9 / seconds })
  for (const size of plan.sizes) {
    if (!plan.imagesOnly) await measurePart('forward', size, () => measureForward(pipeline, size))
    await measurePart('turbo', size, () => measureTurbo(pipeline, size))
  }
  if (!plan.imagesOnly) await measurePart('encode', null, () => measureEncode(pipeline))
  for (const size of plan.fullSizes) await measurePart('full', size, () => measureFull(pipeline, size))
  if (!plan.imagesOnly)
    for (const size of plan.sizes) await measurePart('decode', size, () => measureDecode(pipeline, size))
  await pipeline.release()
}

await main()
