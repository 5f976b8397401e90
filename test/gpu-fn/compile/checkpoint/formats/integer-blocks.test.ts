import { expect, test } from 'vitest'
import { blockOf, quantizeBlocks } from '../../../../../gpu-fn/compile/checkpoint/formats/integer-blocks.ts'
import { createPseudoRandom } from '../../../../support/checkpoints/tensors.ts'

test('the values of a block are the multiples of its scale nearest to them, with the largest one exact', () => {
  const values = Float32Array.of(-2, -1, 0, 0.5, 1, 1.75, 1.98, ...new Array(9).fill(0), ...new Array(16).fill(0))
  const [codes, scales] = [new Uint8Array(32), new Float32Array(2)]
  expect(quantizeBlocks(values, 8, 16, codes, scales)).toBe(true)
  expect([...scales]).toEqual([2 / 128, 1]) // a block of zeros has the scale 1
  expect([...codes.subarray(0, 8)]).toEqual([0, 64, 128, 160, 192, 240, 255, 128])
  expect([...codes.subarray(16)]).toEqual(new Array(16).fill(128))
})

test('4-bit codes are packed in pairs, the first one in the low half', () => {
  const values = Float32Array.of(8, -8, 4, 0, ...new Array(12).fill(0))
  const [codes, scales] = [new Uint8Array(8), new Float32Array(1)]
  expect(quantizeBlocks(values, 4, 16, codes, scales)).toBe(true)
  // The largest value is positive, so the scale is negative; its opposite saturates.
  expect([...scales]).toEqual([-1])
  expect([...codes.subarray(0, 2)]).toEqual([0x0 | (0xf << 4), 0x4 | (0x8 << 4)])
})

test.each([1, 1e-3, 1e-5])(
  'scales are float16 values, and codes are relative to the rounded scale: magnitude %d',
  (unit) => {
    const values = createPseudoRandom([64], 3).data.map((value) => value * unit)
    const [codes, scales] = [new Uint8Array(64), new Float32Array(2)]
    expect(quantizeBlocks(values, 8, 32, codes, scales)).toBe(true)
    expect([...scales]).toEqual([...scales].map(Math.f16round))
    for (const [i, code] of codes.entries()) {
      const steps = values[i]! / scales[i >> 5]!
      // Beyond the codes, a value is saturated: float16 has too few digits for the smallest scales.
      expect(code).toBe(Math.floor(Math.max(0, Math.min(255, steps + 128.5))))
    }
  },
)

test.each([Number.NaN, Number.POSITIVE_INFINITY, 1e38])('a block with %s is refused', (value) => {
  expect(quantizeBlocks(new Float32Array(16).fill(value), 8, 16, new Uint8Array(16), new Float32Array(1))).toBe(false)
})

test('the block size divides the row length for Large and nano', () => {
  expect([2432, 1536, 192, 80, 72].map((columns) => blockOf(columns, 8))).toEqual([128, 128, 64, 16, null])
  expect([4096, 10240].map((columns) => blockOf(columns, 4))).toEqual([32, 32])
})
