import { expect, test } from 'vitest'
import { drawGaussianNoise } from '../../../gpu-fn/pipeline/noise.ts'
import golden from '../../golden/noise.json' with { type: 'json' }

// PyTorch approximates log, sine and cosine on AVX2: four of five values are bit-identical, and the others are off by one unit in the last
// place.
const TOLERANCE = 1e-6

function decodeFloats(base64: string): Float32Array {
  return new Float32Array(new Uint8Array(Buffer.from(base64, 'base64')).buffer)
}

function measureLargestDifference(actual: Float32Array, expected: Float32Array): number {
  expect(actual.length).toBe(expected.length)
  return Math.max(...actual.map((value, i) => Math.abs(value - expected[i]!)))
}

const count = (shape: number[]) => shape.reduce((a, b) => a * b, 1)

test.each(golden.cases)('equals torch.randn for seed $seed and shape $shape', ({ seed, shape, values }) => {
  expect(measureLargestDifference(drawGaussianNoise(seed, count(shape)), decodeFloats(values))).toBeLessThanOrEqual(
    TOLERANCE,
  )
})

test.each(golden.tails)(
  'equals torch.randn to the end of a latent of 1024 × 1024 pixels, seed $seed',
  ({ seed, shape, last }) => {
    const tail = drawGaussianNoise(seed, count(shape)).subarray(-64)
    expect(measureLargestDifference(tail, decodeFloats(last))).toBeLessThanOrEqual(TOLERANCE)
  },
)

test('small shapes use the double-precision path and are bit-identical', () => {
  const short = golden.cases.filter(({ shape }) => count(shape) < 16)
  expect(short.length).toBeGreaterThan(10)
  for (const { seed, shape, values } of short)
    expect(drawGaussianNoise(seed, count(shape))).toEqual(decodeFloats(values))
})

test('only the low 32 bits of a seed are used', () => {
  expect(drawGaussianNoise(2 ** 32 + 7, 64)).toEqual(drawGaussianNoise(7, 64))
  expect(drawGaussianNoise(String(2n ** 63n + 7n), 64)).toEqual(drawGaussianNoise(7, 64))
  expect(drawGaussianNoise(8, 64)).not.toEqual(drawGaussianNoise(7, 64))
})

test('is standard normal', () => {
  const noise = drawGaussianNoise(3, 1 << 18)
  const mean = noise.reduce((sum, x) => sum + x, 0) / noise.length
  const variance = noise.reduce((sum, x) => sum + (x - mean) ** 2, 0) / noise.length
  expect(Math.abs(mean)).toBeLessThan(0.01)
  expect(Math.abs(variance - 1)).toBeLessThan(0.01)
})
