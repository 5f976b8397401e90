import { readFile } from 'node:fs/promises'
import path from 'node:path'
import sharp from 'sharp'
import { describe, expect, it } from 'vitest'
import type { Manifest } from '../../gpu-fn/compile/manifest.ts'
import { openPackage } from '../../gpu-fn/packages.ts'
import { openPipeline, type Txt2ImgRequest, txt2img } from '../../gpu-fn/txt2img.ts'
import type { TinyVariant } from '../../infra/tiny/variants.ts'
import { compileTiny } from '../support/compile.ts'

type Case = { name: string; variant: TinyVariant; tier: Manifest['tier']; t5: boolean } & Pick<
  Txt2ImgRequest,
  'width' | 'height' | 'steps' | 'guidance_scale' | 'seed' | 'prompt' | 'negative_prompt'
>

const GOLDEN = path.join(import.meta.dirname, '..', 'golden', 'pipeline')
const CASES: Case[] = JSON.parse(await readFile(path.join(GOLDEN, 'cases.json'), 'utf8'))
const LAYOUTS = ['diffusers', 'single-file'] as const
// A single file does not say what is odd about this one.
const subjects = CASES.flatMap((golden) => LAYOUTS.map((layout) => ({ ...golden, layout }))).filter(
  ({ variant, layout }) => variant !== 'tiny-odd' || layout === 'diffusers',
)

describe('StableDiffusion3Pipeline', () => {
  it.each(subjects)('gives the image of $name, $layout', async ({ name, variant, tier, t5, layout, ...request }) => {
    const directory = await compileTiny({ variant, t5, layout, tier })
    const image = await generate(directory, { ...defaults, ...request })
    const [ours, theirs] = await Promise.all([pixels(image), pixels(await readFile(path.join(GOLDEN, `${name}.png`)))])
    expect(ours.info).toMatchObject({ width: request.width, height: request.height, channels: 3 })
    const { largest, share } = differences(ours.data, theirs.data)
    expect(largest).toBeLessThanOrEqual(2)
    // Where float32 sums end on the other side of a rounding; weights in float16 make it 0.03.
    expect(share).toBeLessThan(0.005)
  })
})

const defaults = { count: 1, output_format: 'png', output_quality: 90, text_convention: 'diffusers' } as const

async function generate(directory: string, request: Txt2ImgRequest): Promise<Uint8Array> {
  const pipeline = await openPipeline(await openPackage(directory))
  try {
    for await (const event of txt2img(pipeline, request, new AbortController().signal)) {
      if (event.type === 'image') return event.data
    }
    throw new Error('the pipeline gave no image')
  } finally {
    await pipeline.release()
  }
}

const pixels = (png: Uint8Array) => sharp(png).removeAlpha().raw().toBuffer({ resolveWithObject: true })

/** The largest difference of two values, and the share of values that differ at all. */
function differences(a: Uint8Array, b: Uint8Array): { largest: number; share: number } {
  if (a.length !== b.length) return { largest: Number.POSITIVE_INFINITY, share: 1 }
  const each = a.map((value, i) => Math.abs(value - b[i]!))
  return { largest: each.reduce((x, y) => Math.max(x, y)), share: each.filter((d) => d > 0).length / each.length }
}
