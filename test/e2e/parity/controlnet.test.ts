import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import type { ControlType } from '../../../gpu-fn/manifest.ts'
import { decodeControl } from '../../../gpu-fn/pipeline/input/input-image.ts'
import { openControlnet } from '../../../gpu-fn/weights/additions/controlnet-packages.ts'
import { type RenderRequest, render, withPipeline } from '../../../infra/local/models/render.ts'
import { compareDifferences, readPixels } from '../../../infra/receipts/compare-images.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { compileTinyControlnet } from '../../support/checkpoints/controlnet.ts'
import { useScratch } from '../../support/scratch.ts'

type Golden = RenderRequest & {
  name: string
  type: ControlType
  width: number
  height: number
  /** A file in test/golden. */
  control: string
  scale: number
  start?: number
  stop?: number
}

const GOLDEN = path.join(import.meta.dirname, '../../golden')
const readGolden = (file: string) => readFile(path.join(GOLDEN, file))
const cases: Golden[] = JSON.parse(String(await readGolden('controlnet/cases.json')))

const scratch = useScratch()
let base: string
beforeAll(async () => {
  base = await compileTiny({ variant: 'tiny-large' })
})

describe('StableDiffusion3ControlNetPipeline', () => {
  it.each(cases)('gives the image of $name', async ({ name, type, control, scale, start, stop, ...request }) => {
    const out = path.join(scratch.directory, name)
    await compileTinyControlnet(out, { type })
    const controlnet = await openControlnet(out)
    const { width, height } = request
    const { pixels } = await decodeControl(await readGolden(control), { width, height, image_fit: 'stretch' })
    const choice = { id: name, scale, ...(start !== undefined && { start }), ...(stop !== undefined && { stop }) }
    const [file, without] = await withPipeline(base, async (pipeline) => [
      await render(pipeline, { ...request, controls: [choice] }, undefined, { control: { controlnet, pixels } }),
      await render(pipeline, request),
    ])
    const theirs = await readPixels(path.join(GOLDEN, `controlnet/${name}.png`))
    const { largest, share } = compareDifferences(await readPixels(file), theirs)
    expect(largest).toBeLessThanOrEqual(2)
    expect(share).toBeLessThan(0.005)
    // The bound is far below the ControlNet's effect.
    expect(compareDifferences(await readPixels(without), theirs).largest).toBeGreaterThan(20)
  })
})
