import { describe, expect, test } from 'vitest'
import { decodeTable } from '../../../../../gpu-fn/compile/checkpoint/formats/fp8.ts'
import {
  GROUP,
  GROUP_BYTES,
  groupScaleTable,
  type PackedRows,
  quantizePacked,
  unpackCodes,
  unpackTable,
} from '../../../../../gpu-fn/compile/checkpoint/formats/fp8-int4.ts'
import { drawGaussianNoise } from '../../../../../gpu-fn/pipeline/noise.ts'
import { toFp8Int4, toFp8Rows, toIntegers } from '../../../../../infra/bench/precision/roundings.ts'

function quantize(src: Float32Array, rows: number): PackedRows {
  const groups = src.length / GROUP
  const out = {
    packed: new Uint8Array(groups * GROUP_BYTES),
    groupScales: new Uint8Array(groups),
    scales: new Float32Array(rows),
  }
  quantizePacked(src, rows, src.length / rows, out)
  return out
}

function unpack({ packed, groupScales, scales }: PackedRows): Float32Array {
  const codes = unpackCodes(packed, groupScales)
  const columns = codes.length / scales.length
  return Float32Array.from(codes, (code, i) => decodeTable[code]! * scales[Math.floor(i / columns)]!)
}

/** Relative RMS error. */
function errorOf(given: Float32Array, exact: Float32Array): number {
  const sum = (of: (i: number) => number) => exact.reduce((total, _, i) => total + of(i) ** 2, 0)
  return Math.sqrt(sum((i) => given[i]! - exact[i]!) / sum((i) => exact[i]!))
}

test('scale bytes encode signed floats with magnitudes from 0.25 to 62', () => {
  expect([0, 1, 15, 16, 0x7c, 0x7f].map((byte) => groupScaleTable[byte])).toEqual([0.25, 17 / 64, 31 / 64, 0.5, 56, 62])
  for (let byte = 0; byte < 128; byte++) expect(groupScaleTable[byte + 128]).toBe(-groupScaleTable[byte]!)
})

test('codes are products of integer and scale, rounded to E4M3', () => {
  const decodeByte = (byte: number, integer: number) => decodeTable[unpackTable[byte * 16 + integer + 8]!]!
  expect(decodeByte(0x7c, -8)).toBe(-448)
  expect(decodeByte(0x7f, -8)).toBe(-448) // saturated
  expect(decodeByte(0x11, 3)).toBe(1.625) // 3 × 17 ÷ 32 = 1.59375; E4M3 has steps of an eighth there
  expect(decodeByte(0x91, 3)).toBe(-1.625)
})

describe('quantization', () => {
  test('has a smaller error for Gaussian weights than block-quantized integers with 16-bit scales', () => {
    const exact = drawGaussianNoise(1, 64 * 2432)
    const given = exact.slice()
    toFp8Int4(given, 64, 2432)
    const integers = exact.slice()
    toIntegers(4)(integers, 64, 2432)
    expect(errorOf(given, exact)).toBeLessThan(0.085)
    expect(errorOf(given, exact)).toBeLessThan(errorOf(integers, exact))
  })

  test('has an error within 3 % of that with optimal scales', () => {
    const exact = drawGaussianNoise(2, 100 * GROUP)
    const given = quantize(exact, 100)
    const best = exact.slice()
    for (let row = 0; row < 100; row++) {
      const values = exact.subarray(row * GROUP, (row + 1) * GROUP)
      const candidates = Array.from({ length: 256 }, (_, byte) =>
        values.map((value) => findNearest(byte, value / given.scales[row]!) * given.scales[row]!),
      )
      const errors = candidates.map((candidate) => errorOf(candidate, values))
      best.set(candidates[errors.indexOf(Math.min(...errors))]!, row * GROUP)
    }
    expect(errorOf(unpack(given), exact)).toBeLessThan(errorOf(best, exact) * 1.03)
  })

  test('preserves a group far below the largest magnitude of its row', () => {
    const exact = drawGaussianNoise(3, 2 * GROUP).map((value, i) => (i < GROUP ? value : value / 100))
    const given = unpack(quantize(exact, 1))
    expect(errorOf(given.subarray(GROUP), exact.subarray(GROUP))).toBeLessThan(0.12)
  })

  test('preserves zeros and rows of extreme magnitude', () => {
    const exact = new Float32Array(4 * GROUP)
    exact.set(
      drawGaussianNoise(4, GROUP).map((value) => value * 1e-30),
      GROUP,
    )
    exact.set(
      drawGaussianNoise(5, GROUP).map((value) => value * 1e30),
      2 * GROUP,
    )
    const given = quantize(exact, 4)
    expect(given.scales[0]).toBe(1)
    const values = unpack(given)
    expect(values.subarray(0, GROUP).every((value) => value === 0)).toBe(true)
    expect(values.subarray(3 * GROUP).every((value) => value === 0)).toBe(true)
    for (const row of [1, 2]) {
      const sliceGroup = (of: Float32Array) => of.subarray(row * GROUP, (row + 1) * GROUP)
      const unit = Math.max(...sliceGroup(exact).map(Math.abs))
      expect(
        errorOf(
          sliceGroup(values).map((x) => x / unit),
          sliceGroup(exact).map((x) => x / unit),
        ),
      ).toBeLessThan(0.12)
    }
  })

  test('has three to four times the error of FP8', () => {
    const exact = drawGaussianNoise(6, 32 * 1536)
    const [four, eight] = [exact.slice(), exact.slice()]
    toFp8Int4(four, 32, 1536)
    toFp8Rows(eight, 32, 1536)
    const ratio = errorOf(four, exact) / errorOf(eight, exact)
    expect(ratio).toBeGreaterThan(3)
    expect(ratio).toBeLessThan(4)
  })
})

/** Representable value nearest to `value` for a scale byte. */
function findNearest(byte: number, value: number): number {
  const values = Array.from({ length: 16 }, (_, integer) => decodeTable[unpackTable[byte * 16 + integer]!]!)
  return values.reduce((best, each) => (Math.abs(each - value) < Math.abs(best - value) ? each : best))
}
