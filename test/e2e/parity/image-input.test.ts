import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import type { Manifest } from '../../../gpu-fn/manifest.ts'
import { decodeInput } from '../../../gpu-fn/pipeline/input/input-image.ts'
import type { TinyVariant } from '../../../infra/checkpoints/tiny/variants.ts'
import { prepareBuiltInPackage } from '../../../infra/local/models/built-in-model.ts'
import { type RenderRequest, render, withPipeline } from '../../../infra/local/models/render.ts'
import { compareDifferences, readPixels } from '../../../infra/receipts/compare-images.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'

type Golden = RenderRequest & {
  name: string
  checkpoint: TinyVariant | 'nano'
  tier: Manifest['tier']
  width: number
  height: number
  /** Files in test/golden. */
  image: string
  mask?: string
}

const GOLDEN = path.join(import.meta.dirname, '../../golden')
const readGolden = (file: string) => readFile(path.join(GOLDEN, file))
const cases: Golden[] = JSON.parse(String(await readGolden('image-input/cases.json')))

describe.each([
  { pipeline: 'StableDiffusion3Img2ImgPipeline', goldens: cases.filter(({ mask }) => !mask) },
  { pipeline: 'StableDiffusion3InpaintPipeline', goldens: cases.filter(({ mask }) => mask) },
])('$pipeline', ({ goldens }) => {
  it.each(goldens)('gives the image of $name', async ({ name, checkpoint, tier, image, mask, ...request }) => {
    const { width, height } = request
    const files = { image: await readGolden(image), ...(mask && { mask: await readGolden(mask) }) }
    const input = await decodeInput(files, { width, height, image_fit: 'stretch' })
    const directory =
      checkpoint === 'nano'
        ? await prepareBuiltInPackage('nano', tier)
        : await compileTiny({ variant: checkpoint, tier })
    const file = await withPipeline(directory, (pipeline) => render(pipeline, request, undefined, { input }))
    const [ours, theirs] = await Promise.all([
      readPixels(file),
      readPixels(path.join(GOLDEN, `image-input/${name}.png`)),
    ])
    const { largest, share } = compareDifferences(ours, theirs)
    expect(largest).toBeLessThanOrEqual(2)
    expect(share).toBeLessThan(0.005)
  })
})
