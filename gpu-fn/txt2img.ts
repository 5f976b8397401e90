// A prompt becomes a picture: tokenize, encode, condition; then for every image noise, denoise, decode, write the file.
import path from 'node:path'
import type { NetworkName } from './compile/manifest.ts'
import type { JobRequest } from './contract.ts'
import { condition, predictVelocity } from './denoise.ts'
import { CONTENT_TYPES, encodeImage, toPixels } from './image.ts'
import { gaussianNoise } from './noise.ts'
import type { Package } from './packages.ts'
import { readPosition } from './position.ts'
import { type EncoderName, encodePrompts, type NamedPrompt, type TextEncoders } from './prompt.ts'
import { eulerStep, sigmaSchedule, timestepsOf } from './sampler.ts'
import { openSession, type Session, type SessionOptions } from './session.ts'
import { openTokenizer } from './tokenizer.ts'

export type Txt2ImgRequest = Pick<
  JobRequest,
  | 'prompt'
  | 'negative_prompt'
  | 'width'
  | 'height'
  | 'steps'
  | 'guidance_scale'
  | 'seed'
  | 'count'
  | 'output_format'
  | 'output_quality'
  | 'text_convention'
>

type FinishedImage = {
  type: 'image'
  image: number
  seed: number
  width: number
  height: number
  content_type: (typeof CONTENT_TYPES)[keyof typeof CONTENT_TYPES]
  data: Uint8Array
}
/** Times are seconds. `step` counts from 1, `image` from 0. */
export type PipelineEvent =
  | { type: 'warning'; code: 'prompt_truncated'; message: string }
  | { type: 'encoded'; seconds: number }
  | { type: 'step'; image: number; step: number; steps: number }
  | FinishedImage
  | { type: 'finished'; timings: { encode: number; denoise: number; decode: number } }

/** A package with its graphs and tokenizers open. Use it from one thread. */
export type Pipeline = {
  package: Package
  encoders: TextEncoders
  conditioning: Session
  transformer: Session
  vaeDecoder: Session
  release(): Promise<void>
}

const TOKENIZERS = { clip_l: 'tokenizer', clip_g: 'tokenizer_2', t5: 'tokenizer_3' } as const
const SEEDS = 2 ** 32
/** On the CPU the weights of packages up to this size are widened to float32 as they are opened: some gigabytes for much speed. */
const FOLD_BYTES = 2 ** 30

/** Opens every graph and tokenizer of a package. Throws `SessionError` or `TokenizerError`, with nothing left open. */
export async function openPipeline(
  pkg: Package,
  options: Pick<SessionOptions, 'fold' | 'threads'> = {},
): Promise<Pipeline> {
  const { directory, manifest } = pkg
  const bytes = Object.values(manifest.files).reduce((sum, file) => sum + file.bytes, 0)
  const opened: Session[] = []
  const release = async () => {
    for (const session of opened.splice(0)) await session.release()
  }
  const open = async (network: NetworkName) => {
    const { file } = manifest.networks[network]!
    const session = await openSession(path.join(directory, file), {
      target: manifest.target,
      fold: bytes <= FOLD_BYTES,
      ...options,
    })
    opened.push(session)
    return session
  }
  try {
    const encoders: TextEncoders = {}
    for (const name of Object.keys(TOKENIZERS) as EncoderName[]) {
      if (!manifest.networks[name]) continue
      const tokenizer = await openTokenizer(path.join(directory, TOKENIZERS[name]))
      encoders[name] = { session: await open(name), tokenizer }
    }
    const conditioning = await open('conditioning')
    const transformer = await open('transformer')
    return { package: pkg, encoders, conditioning, transformer, vaeDecoder: await open('vae_decoder'), release }
  } catch (error) {
    await release()
    throw error
  }
}

/**
 * Makes `count` images; image k has the noise of `seed + k`. Guidance runs only above a scale of 1. Yields after every step and looks at
 * `signal` before the next; an aborted signal throws its reason. Throws `RangeError` for a size that the model cannot make.
 */
export async function* txt2img(
  pipeline: Pipeline,
  request: Txt2ImgRequest,
  signal: AbortSignal,
): AsyncGenerator<PipelineEvent> {
  const { manifest } = pipeline.package
  const latent = latentShape(pipeline.package, request)
  const timings = { encode: 0, denoise: 0, decode: 0 }
  const batched = manifest.transformer_batch === null

  signal.throwIfAborted()
  const encodeClock = stopwatch()
  const encoded = await encodePrompts(pipeline.encoders, manifest.text, promptsOf(request), {
    convention: request.text_convention,
    batched,
  })
  for (const message of encoded.cuts) yield { type: 'warning', code: 'prompt_truncated', message }
  signal.throwIfAborted()
  const sigmas = sigmaSchedule(request.steps, manifest.scheduler)
  const conditions = await condition(
    pipeline.conditioning,
    encoded.prompts,
    timestepsOf(sigmas, manifest.scheduler),
    batched,
  )
  timings.encode = encodeClock()
  yield { type: 'encoded', seconds: timings.encode }

  const position = await readPosition(pipeline.package, latent.rows, latent.columns)
  for (let image = 0; image < request.count; image++) {
    const seed = (request.seed + image) % SEEDS
    const data = gaussianNoise(
      seed,
      latent.dims.reduce((product, dim) => product * dim),
    )
    const denoiseClock = stopwatch()
    for (let step = 0; step < request.steps; step++) {
      signal.throwIfAborted()
      const guidance = { guidanceScale: request.guidance_scale, position }
      const velocity = await predictVelocity(
        pipeline.transformer,
        { data, dims: latent.dims },
        conditions,
        step,
        guidance,
      )
      eulerStep(data, velocity, sigmas[step]!, sigmas[step + 1]!)
      yield { type: 'step', image, step: step + 1, steps: request.steps }
    }
    timings.denoise += denoiseClock()

    signal.throwIfAborted()
    const decodeClock = stopwatch()
    const decoded = await pipeline.vaeDecoder.run({ latent: { data, dims: latent.dims } })
    const finished = await writeImage(pipeline.package, request, decoded.image!.data as Float32Array, image, seed)
    timings.decode += decodeClock()
    yield finished
  }
  yield { type: 'finished', timings }
}

/** In the order of a batch under guidance: negative first, as in diffusers. */
function promptsOf({ prompt, negative_prompt, guidance_scale }: Txt2ImgRequest): NamedPrompt[] {
  const positive = { name: 'prompt', text: prompt }
  return guidance_scale > 1 ? [{ name: 'negative prompt', text: negative_prompt }, positive] : [positive]
}

/** Dims of a latent [1, C, h, w] and how many patches it has. */
function latentShape({ manifest: { latent, position } }: Package, { width, height }: Txt2ImgRequest) {
  const patch = latent.downsample * latent.patch_size
  for (const [name, pixels] of Object.entries({ width, height })) {
    if (pixels < patch || pixels % patch !== 0 || pixels / patch > position.max) {
      throw new RangeError(`${name} is ${pixels}; this model makes multiples of ${patch} up to ${patch * position.max}`)
    }
  }
  const dims = [1, latent.channels, height / latent.downsample, width / latent.downsample]
  return { dims, rows: height / patch, columns: width / patch }
}

async function writeImage(
  { manifest, digest }: Package,
  request: Txt2ImgRequest,
  planes: Float32Array,
  image: number,
  seed: number,
): Promise<FinishedImage> {
  const { prompt, negative_prompt, steps, guidance_scale, width, height, text_convention } = request
  const { output_format: format, output_quality: quality } = request
  const data = await encodeImage(
    toPixels(planes, width, height),
    { format, quality },
    {
      ...{ prompt, negative_prompt, seed, steps, guidance_scale, width, height, text_convention },
      ...{ model: manifest.model, tier: manifest.tier, package: digest, tool: manifest.tool },
    },
  )
  return { type: 'image', image, seed, width, height, content_type: CONTENT_TYPES[format], data }
}

function stopwatch(): () => number {
  const start = performance.now()
  return () => (performance.now() - start) / 1000
}
