import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import type { Manifest } from '../../../gpu-fn/manifest.ts'
import type { TinyVariant } from '../../../infra/checkpoints/tiny/variants.ts'
import { type BuiltInModel, prepareBuiltInPackage } from '../../../infra/local/models/built-in-model.ts'
import { type RenderRequest, render, withPipeline } from '../../../infra/local/models/render.ts'
import { compareDifferences, readPixels } from '../../../infra/receipts/compare-images.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'

type Golden = RenderRequest & { name: string; width: number; height: number }
type TinyCase = Golden & { variant: TinyVariant; tier: Manifest['tier']; t5: boolean }
type NanoCase = Golden & { checkpoint: '.' | 'turbo' }

const GOLDEN = path.join(import.meta.dirname, '../../golden')
const readGolden = (file: string) => readFile(path.join(GOLDEN, file), 'utf8')

const LAYOUTS = ['diffusers', 'single-file'] as const
const cases: TinyCase[] = JSON.parse(await readGolden('pipeline/cases.json'))
// A single file cannot express the unusual settings of this variant.
const subjects = cases
  .flatMap((golden) => LAYOUTS.map((layout) => ({ ...golden, layout })))
  .filter(({ variant, layout }) => variant !== 'tiny-odd' || layout === 'diffusers')

/** Cases of test/golden/scripts/pipeline_sampling.py, which also has their common fields. */
const sampling: (Pick<TinyCase, 'name' | 'variant'> & Partial<Golden>)[] = JSON.parse(
  await readGolden('pipeline/sampling.json'),
)
const SAMPLED = {
  ...{ prompt: 'a photorealistic flower garden with sunlight, best quality', negative_prompt: 'dark, blurry' },
  ...{ width: 96, height: 64, steps: 5, guidance_scale: 4.5, seed: 7 },
}

const nano: NanoCase[] = (await readGolden('nano/requests.jsonl'))
  .trimEnd()
  .split('\n')
  .map((line) => JSON.parse(line))
const MODELS: Record<NanoCase['checkpoint'], BuiltInModel> = { '.': 'nano', turbo: 'nano-turbo' }

/** The package generates the golden image, except for rounding. */
async function expectGolden(directory: string, golden: string, request: RenderRequest): Promise<void> {
  const image = await withPipeline(directory, (pipeline) => render(pipeline, request))
  const [ours, theirs] = await Promise.all([readPixels(image), readPixels(path.join(GOLDEN, golden))])
  expect(ours).toMatchObject({ width: request.width, height: request.height, channels: 3 })
  const { largest, share } = compareDifferences(ours, theirs)
  expect(largest).toBeLessThanOrEqual(2)
  // Where float32 sums end on the other side of a rounding; weights in float16 make it 0.03.
  expect(share).toBeLessThan(0.005)
}

describe('StableDiffusion3Pipeline', () => {
  it.each(subjects)('gives the image of $name, $layout', async ({ name, variant, tier, t5, layout, ...request }) => {
    // In a single file, CLIP-L is pooled without its projection.
    const golden = layout === 'diffusers' ? name : `${name}.single-file`
    await expectGolden(await compileTiny({ variant, t5, layout, tier }), `pipeline/${golden}.png`, request)
  })

  it.each(sampling)('gives the image of $name', async ({ name, variant, ...request }) => {
    await expectGolden(await compileTiny({ variant }), `pipeline/${name}.png`, { ...SAMPLED, ...request })
  })

  it.each(nano)('gives the image of $name', async ({ name, checkpoint, ...request }) => {
    await expectGolden(await prepareBuiltInPackage(MODELS[checkpoint], 'fp32'), `nano/${name}.png`, request)
  })
})
