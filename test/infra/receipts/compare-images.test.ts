import sharp from 'sharp'
import { expect, test } from 'vitest'
import { ssim } from '../../../infra/quality/structural-similarity.ts'
import { compareDifferences, type Pixels, psnr, readPixels } from '../../../infra/receipts/compare-images.ts'

const createPlainImage = (width: number, level: number): Pixels => ({
  data: new Uint8Array(width * width * 3).fill(level),
  ...{ width, height: width, channels: 3 },
})
/** A ramp from left to right with `noise` on every other value. */
function createRamp(noise: number): Pixels {
  const pixels = createPlainImage(32, 0)
  pixels.data.forEach((_, i) => {
    pixels.data[i] = (Math.floor(i / 3) % 32) * 6 + (i % 2) * noise
  })
  return pixels
}

test('psnr is infinite for the same pixels and 0 dB for the opposite', () => {
  expect(psnr(createPlainImage(4, 10), createPlainImage(4, 10))).toBe(Number.POSITIVE_INFINITY)
  expect(psnr(createPlainImage(4, 0), createPlainImage(4, 255))).toBeCloseTo(0)
  expect(psnr(createPlainImage(4, 100), createPlainImage(4, 110))).toBeCloseTo(28.13, 2)
})

test('differences have a maximum and a share of values', () => {
  const changed = createPlainImage(4, 100)
  changed.data[5] = 103
  changed.data[7] = 98
  expect(compareDifferences(createPlainImage(4, 100), changed)).toEqual({ largest: 3, share: 2 / 48 })
})

test('ssim is 1 for the same pixels and falls with noise', () => {
  expect(ssim(createRamp(0), createRamp(0))).toBeCloseTo(1)
  const [some, more] = [ssim(createRamp(0), createRamp(20)), ssim(createRamp(0), createRamp(60))]
  expect(some).toBeLessThan(0.99)
  expect(more).toBeLessThan(some)
})

test.each([psnr, compareDifferences, ssim])('%o refuses images of different sizes', (compare) => {
  expect(() => compare(createPlainImage(4, 1), createPlainImage(5, 1))).toThrow('one image is 4x4, the other 5x5')
})

test('pixels are RGB for every format of the file', async () => {
  const file = await sharp({ create: { width: 2, height: 1, channels: 4, background: '#0a141eff' } })
    .png()
    .toBuffer()
  expect(await readPixels(file)).toMatchObject({ width: 2, height: 1, channels: 3 })
  expect([...(await readPixels(file)).data]).toEqual([10, 20, 30, 10, 20, 30])
})
