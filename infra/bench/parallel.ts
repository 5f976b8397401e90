// Guidance with its samples divided over several devices, against one device: milliseconds of a step and seconds of an image, measured in
// turn in one process. Fails unless each sample is bit-identical on every device.
import os from 'node:os'
import { sumDenoiserBytes } from '../../gpu-fn/engine/package/graphs.ts'
import { type OpenPipeline, openPipeline } from '../../gpu-fn/engine/package/open-pipeline.ts'
import { computeConditions } from '../../gpu-fn/pipeline/conditions.ts'
import { type Condition, type Denoiser, predictVelocity, releaseConditions } from '../../gpu-fn/pipeline/denoise.ts'
import { drawGaussianNoise } from '../../gpu-fn/pipeline/noise.ts'
import { readPosition } from '../../gpu-fn/pipeline/position.ts'
import { encodePrompts } from '../../gpu-fn/pipeline/prompt/prompt.ts'
import { type Txt2ImgRequest, txt2img } from '../../gpu-fn/pipeline/txt2img.ts'
import { openPackage } from '../../gpu-fn/weights/packages.ts'
import { type GpuVariant, preparePackage, type Target } from './gpu/packages.ts'
import { computeRelativeError, median } from './statistics.ts'

export type ParallelBenchOptions = {
  /** `nano`, or an architecture with random weights. */
  readonly model: GpuVariant | 'nano'
  readonly target: Target
  readonly directory: string
  readonly size: number
  readonly devices: number
  readonly runs: number
  readonly steps: number
}

type Denoisers = readonly [Denoiser, ...Denoiser[]]
type Way = { name: string; conditions: Condition[]; times: number[]; velocity: Float32Array }

const GUIDANCE = 3.5
const TIMESTEP = 857.7
/** The steps of each method are timed in this many groups, alternately. */
const ROUNDS = 3
/** Untimed steps of each group: the first step with a new batch size takes about 25 ms longer. */
const WARM_UPS = 2
const PROMPTS = [
  { name: 'negative prompt', text: 'blurry' },
  { name: 'prompt', text: 'a red heart on a blue sky above a green field, with a small house to the left' },
]

/** Prints the figures. Throws if the package does not fit on every device, or if a result differs between devices. */
export async function benchParallel(options: ParallelBenchOptions): Promise<void> {
  const { devices } = options
  const pkg = await openPackage(await preparePackage(options))
  const { model, tier, target } = pkg.manifest
  // On a CPU, each device is a native session with its share of the cores.
  const threads = Math.max(1, Math.floor(os.availableParallelism() / devices))
  const onCpu = target === 'cpu' ? ({ binding: 'native', threads } as const) : {}
  const start = performance.now()
  const pipeline = await openPipeline(pkg, { devices, ...onCpu })
  const seconds = (performance.now() - start) / 1000
  try {
    if (pipeline.note) console.log(pipeline.note)
    console.log(`${model}:${tier}, ${target}, ${options.size}², guidance with two samples, ${devices} devices`)
    const gigabytes = (sumDenoiserBytes(pkg) / 1e9).toFixed(2)
    console.log(`opened in ${seconds.toFixed(2)} s; each further device has ${gigabytes} GB of weights`)
    if (pipeline.others.length < devices - 1) throw new Error('the denoiser does not fit on every device')
    await measureSteps(pipeline, options)
    await measureImages(pipeline, options)
  } finally {
    await pipeline.release()
  }
}

async function measureSteps(pipeline: OpenPipeline, { size, devices, runs }: ParallelBenchOptions): Promise<void> {
  const ways: Way[] = []
  const { manifest } = pipeline.package
  const { prompts } = await encodePrompts(pipeline.encoders, manifest.text, PROMPTS, { batched: false })
  const prepare = async (name: string, denoisers: Denoisers, batched: boolean) => {
    const compute = computeConditions(denoisers, prompts, { manifest, batched })
    const conditions = await compute(Float32Array.of(TIMESTEP), 'guided')
    ways.push({ name, conditions, times: [], velocity: new Float32Array() })
  }
  try {
    if (pipeline.batched) await prepare('one device, one batch', [pipeline], true)
    await prepare('one device, one sample after another', [pipeline], false)
    await prepare(`${devices} devices, one sample each`, [pipeline, ...pipeline.others], false)
    const forward = await createForward(pipeline, size)
    for (let round = 0; round < ROUNDS; round++)
      for (const way of ways) await measureGroup(way, forward, Math.ceil(runs / ROUNDS))
    report(ways)
  } finally {
    for (const { conditions } of ways) releaseConditions(conditions)
  }
}

async function measureGroup(way: Way, forward: (conditions: Condition[]) => Promise<Float32Array>, runs: number) {
  for (let run = 0; run < WARM_UPS + runs; run++) {
    const start = performance.now()
    way.velocity = await forward(way.conditions)
    if (run >= WARM_UPS) way.times.push(performance.now() - start)
  }
}

/** Runs a guided step from fixed noise. */
async function createForward({ package: pkg }: OpenPipeline, size: number) {
  const { channels, downsample, patch_size } = pkg.manifest.latent
  const side = size / downsample
  const position = await readPosition(pkg, side / patch_size, side / patch_size)
  const latent = { data: drawGaussianNoise(1, channels * side * side), dims: [1, channels, side, side] }
  const options = { guidanceScale: GUIDANCE, position, signal: new AbortController().signal }
  return (conditions: Condition[]) => predictVelocity(latent, conditions, 0, options)
}

function report(ways: readonly Way[]): void {
  const [first] = ways
  const [alone, parallel] = ways.slice(-2) as [Way, Way]
  for (const { name, times } of ways) {
    const ratio = (median(times) / median(first!.times)).toFixed(3)
    const spread = `${Math.min(...times).toFixed(2)} to ${Math.max(...times).toFixed(2)}`
    console.log(`step, ${name}: ${median(times).toFixed(2)} ms (${spread}), ${ratio} ×`)
  }
  const isEqual = Buffer.compare(bytesOf(parallel.velocity), bytesOf(alone.velocity)) === 0
  const computeError = (given: Way) => computeRelativeError(parallel.velocity, given.velocity).toExponential(1)
  console.log(
    `velocity of several devices against one, one sample after another: ${isEqual ? 'equal bytes' : computeError(alone)}`,
  )
  if (first !== alone)
    console.log(`velocity of several devices against one batch: relative error ${computeError(first!)}`)
  if (!isEqual || parallel.velocity.some(Number.isNaN)) throw new Error('the devices have different results')
}

/** Denoising times of whole images, through the pipeline of a job. */
async function measureImages(pipeline: OpenPipeline, { size, steps, devices }: ParallelBenchOptions): Promise<void> {
  const request: Txt2ImgRequest = {
    ...{ prompt: PROMPTS[1]!.text, negative_prompt: PROMPTS[0]!.text, width: size, height: size, steps, seed: 1 },
    ...{ guidance_scale: GUIDANCE, count: 1, output_format: 'jpeg', output_quality: 80, text_convention: 'diffusers' },
  }
  const secondsOf = async (parallel: boolean) => {
    let seconds = 0
    for await (const event of txt2img(pipeline, request, new AbortController().signal, { parallel }))
      if (event.type === 'finished') seconds = event.timings.denoise
    return seconds
  }
  const ways = [false, true].map((parallel) => ({ parallel, times: [] as number[] }))
  for (let round = 0; round < 3; round++) for (const { parallel, times } of ways) times.push(await secondsOf(parallel))
  const [one, several] = ways.map(({ times }) => median(times)) as [number, number]
  console.log(
    `${steps} steps of an image: ${one.toFixed(3)} s on one device, ${several.toFixed(3)} s on ${devices}, ${(several / one).toFixed(3)} ×`,
  )
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array) => Buffer.from(buffer, byteOffset, byteLength)
