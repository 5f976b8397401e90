import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type OpenPipeline, openPipeline } from '../../../gpu-fn/engine/package/open-pipeline.ts'
import { decodeLatent } from '../../../gpu-fn/pipeline/decode.ts'
import { toPixels } from '../../../gpu-fn/pipeline/image.ts'
import { drawGaussianNoise } from '../../../gpu-fn/pipeline/noise.ts'
import { spansOf } from '../../../gpu-fn/pipeline/tiles.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { prepareBuiltInPackage } from '../../../infra/local/models/built-in-model.ts'
import { render } from '../../../infra/local/models/render.ts'
import { type Pixels, psnr, readPixels } from '../../../infra/receipts/compare-images.ts'

test('spans cover a length without gaps, and adjacent ones overlap in the blended part', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 400 }), fc.integer({ min: 8, max: 128 }), (length, tile) => {
      const spans = spansOf(length, tile)
      expect(spans[0]!.start).toBe(0)
      expect(spans.at(-1)!.end).toBe(length)
      for (const [i, span] of spans.entries()) {
        expect(span.end - span.start).toBe(Math.min(length, tile))
        expect([span.before, span.after]).toEqual([i > 0, i < spans.length - 1])
        if (i > 0) expect(spans[i - 1]!.end - span.start).toBeGreaterThanOrEqual(Math.min(16, tile >> 1))
      }
    }),
  )
})

describe('nano, decoded in tiles', () => {
  let pipeline: OpenPipeline
  beforeAll(async () => {
    pipeline = await openPipeline(await openPackage(await prepareBuiltInPackage('nano-turbo', 'fp32')))
  })
  afterAll(() => pipeline.release())

  const renderPicture = async (tile: number | null) => {
    const request = { prompt: 'a red heart on a blue background', seed: 3 }
    const tiled = { ...pipeline, plan: { ...pipeline.plan, tile } }
    return readPixels(await render(tiled, request))
  }

  test('is close to the untiled result, without seams', async () => {
    const [whole, tiled] = [await renderPicture(null), await renderPicture(24)]
    expect(psnr(tiled, whole)).toBeGreaterThan(36)
    expect(measureSeam(tiled, whole, 'across')).toBeLessThan(0.6)
    expect(measureSeam(tiled, whole, 'down')).toBeLessThan(0.6)
    // The measure detects seams between adjacent tiles, down to half a level of brightness.
    const cut = { ...whole, data: whole.data.map((value, i) => (Math.floor(i / 3) % 256 < 128 ? value - 1 : value)) }
    expect(measureSeam(cut, whole, 'across')).toBeGreaterThan(0.6)
  })

  test('a latent that is no larger than a tile is decoded in one piece', async () => {
    const latent = { data: drawGaussianNoise(1, 16 * 8 * 6), dims: [1, 16, 8, 6] }
    const whole = await decodeLatent(pipeline.vaeDecoder, latent, null)
    expect(await decodeLatent(pipeline.vaeDecoder, latent, 8)).toEqual(whole)
  })

  test('pixels are bit-identical to the planes', async () => {
    const latent = { data: drawGaussianNoise(2, 16 * 8 * 6).map((value) => 3 * value), dims: [1, 16, 8, 6] }
    const { image } = await pipeline.vaeDecoder.run({ latent })
    const [, , height, width] = image!.dims as [number, number, number, number]
    const expected = toPixels(image!.data as Float32Array, width, height)
    const given = await decodeLatent(pipeline.vaeDecoder, latent, null)
    expect(Buffer.compare(given, expected)).toBe(0)
    expect([Math.min(...given), Math.max(...given)]).toEqual([0, 255])
  })

  test.each([null, 4])('NaN is an error in tiles of %s', async (tile) => {
    const latent = { data: drawGaussianNoise(1, 16 * 8 * 6).fill(Number.NaN, 40, 41), dims: [1, 16, 8, 6] }
    await expect(decodeLatent(pipeline.vaeDecoder, latent, tile)).rejects.toThrow('contains NaN')
  })
})

/** The largest change, from one line of pixels to the next, of the mean difference between two images; without the edges. */
function measureSeam(a: Pixels, b: Pixels, axis: 'across' | 'down'): number {
  const { width, height } = a
  const lines = new Float64Array(axis === 'across' ? width : height)
  for (let i = 0; i < a.data.length; i++) {
    const pixel = Math.floor(i / 3)
    const line = axis === 'across' ? pixel % width : Math.floor(pixel / width)
    lines[line]! += (a.data[i]! - b.data[i]!) / (a.data.length / lines.length)
  }
  const inner = lines.subarray(8, -8)
  return inner.reduce((max, value, i) => (i === 0 ? max : Math.max(max, Math.abs(value - inner[i - 1]!))), 0)
}
