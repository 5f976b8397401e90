// Images that run before the first job, because the first run of each shape is slow: the GPU's libraries load kernels and create plans.
import { decodeLatent } from '../../pipeline/decode.ts'
import type { Size } from '../../pipeline/pipeline.ts'
import { txt2img } from '../../pipeline/txt2img.ts'
import { settleAll } from '../../runtime/settle-all.ts'
import type { OpenPipeline } from '../package/open-pipeline.ts'

type Way = { guidance_scale: number; parallel: boolean }

const REQUEST = { prompt: 'warm', negative_prompt: '', steps: 1, seed: 0, count: 1 }
const OUTPUT = { output_format: 'jpeg', output_quality: 50, text_convention: 'diffusers' } as const

/** Generates images with one step for each size, largest first so that memory is planned once. */
export async function warmSizes(pipeline: OpenPipeline, sizes: readonly Size[], onEvent: () => void): Promise<void> {
  for (const size of sizes.toSorted((a, b) => b.width * b.height - a.width * a.height))
    for (const way of waysOf(pipeline)) await makeImage(pipeline, size, way, onEvent)
}

/**
 * Generates an image with one step, with the guidance of the model's defaults, while the networks load. `onPart` receives its parts and their
 * seconds, which include the wait for the networks.
 */
export async function warmWhileLoading(
  pipeline: OpenPipeline,
  size: Size,
  onPart: (part: string, seconds: number) => void,
): Promise<void> {
  const time = async (part: string, action: () => Promise<unknown>) => {
    const start = performance.now()
    await action()
    onPart(part, (performance.now() - start) / 1000)
  }
  const [way] = waysOf(pipeline)
  // A CPU has no warm-up cost per shape.
  const isOnGpu = pipeline.package.manifest.target !== 'cpu'
  await settleAll([
    isOnGpu ? time('first run of vae_decoder', () => decodeZeros(pipeline, size)) : Promise.resolve(),
    time('first image', async () => {
      let start = performance.now()
      await makeImage(pipeline, size, way!, (type) => {
        const part = PARTS[type]
        if (!part) return
        onPart(part, (performance.now() - start) / 1000)
        start = performance.now()
      })
    }),
  ])
}

/** Parts of the first image by the event at their end. */
const PARTS: Record<string, string> = {
  encoded: 'first image: prompts and conditioning',
  step: 'first image: step',
  finished: 'first image: decoding and file',
}

/** The model's defaults first. The batch of two for guidance has its own plans in the GPU's libraries. */
function waysOf({ package: { manifest }, others }: OpenPipeline): Way[] {
  const { guidance_scale } = manifest.defaults
  const scales = manifest.target === 'cpu' ? [guidance_scale] : [guidance_scale, 1]
  const ways = [...new Set(scales)].map((scale) => ({ guidance_scale: scale, parallel: false }))
  return others.length > 0 && guidance_scale > 1 ? [...ways, { guidance_scale, parallel: true }] : ways
}

async function makeImage(pipeline: OpenPipeline, size: Size, way: Way, onEvent: (type: string) => void): Promise<void> {
  const { parallel, guidance_scale } = way
  const image = { ...REQUEST, ...OUTPUT, ...size, guidance_scale }
  const signal = new AbortController().signal
  for await (const { type } of txt2img(pipeline, image, signal, { parallel })) onEvent(type)
}

async function decodeZeros(pipeline: OpenPipeline, { width, height }: Size): Promise<void> {
  const { channels, downsample } = pipeline.package.manifest.latent
  const dims = [1, channels, height / downsample, width / downsample]
  const data = new Float32Array(dims.reduce((count, dim) => count * dim))
  await decodeLatent(pipeline.vaeDecoder, { data, dims }, pipeline.plan.tile)
}
