import sharp from 'sharp'
import { describe, expect, test } from 'vitest'
import { LIMITS } from '../../../gpu-fn/contract.ts'
import { PREVIEW_FACTORS } from '../../../gpu-fn/models/sd35/preview-factors.ts'
import { drawGaussianNoise } from '../../../gpu-fn/pipeline/noise.ts'
import { encodePreview, previewPixels, removeNoise } from '../../../gpu-fn/pipeline/preview.ts'

const AREA = 6
/** One channel of value 1, the others 0. */
const createSingleChannel = (channel: number) =>
  new Float32Array(16 * AREA).fill(1, channel * AREA, (channel + 1) * AREA)

describe('a latent as colors', () => {
  // ((factor + 1) / 2 · 255), cut off, by hand from the reference's matrix.
  test.for([
    [0, [119, 129, 140]],
    [2, [151, 137, 132]],
    [15, [109, 108, 111]],
  ] as const)('channel %i', ([channel, color]) => {
    expect([...previewPixels(createSingleChannel(channel), AREA, PREVIEW_FACTORS)]).toEqual(
      Array.from({ length: AREA }, () => color).flat(),
    )
  })

  test('zero is gray, and values out of range are clamped to black and white', () => {
    expect(previewPixels(new Float32Array(16 * AREA), AREA, PREVIEW_FACTORS)).toEqual(
      new Uint8ClampedArray(3 * AREA).fill(127),
    )
    const bright = createSingleChannel(10).map((value) => value * 1000)
    expect(previewPixels(bright, AREA, PREVIEW_FACTORS)).toEqual(new Uint8ClampedArray(3 * AREA).fill(255))
    expect(
      previewPixels(
        bright.map((value) => -value),
        AREA,
        PREVIEW_FACTORS,
      ),
    ).toEqual(new Uint8ClampedArray(3 * AREA))
  })
})

test('the remaining noise is subtracted along the velocity', () => {
  expect(removeNoise(Float32Array.of(1, 2), Float32Array.of(4, -2), 0.5)).toEqual(Float32Array.of(-1, 3))
})

test('a preview is a JPEG of the latent’s size', async () => {
  const file = await encodePreview(new Float32Array(16 * AREA), { width: 3, height: 2 }, PREVIEW_FACTORS)
  expect(await sharp(file).metadata()).toMatchObject({ format: 'jpeg', width: 3, height: 2 })
})

test('a preview of noise at the largest image size is within the contract’s size limit', async () => {
  const side = LIMITS.side.max / 8
  const latent = drawGaussianNoise(7, 16 * side * side)
  expect((await encodePreview(latent, { width: side, height: side }, PREVIEW_FACTORS)).byteLength).toBeLessThanOrEqual(
    LIMITS.previewBytes,
  )
})
