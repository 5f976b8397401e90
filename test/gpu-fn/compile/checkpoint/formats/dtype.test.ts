import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import {
  convertBfloat16ToFloat16,
  convertFloat32ToFloat16,
  toFloat32,
} from '../../../../../gpu-fn/compile/checkpoint/formats/dtype.ts'

/** Results of numpy and ml_dtypes, from test/golden/scripts/dtype.py. */
const golden = JSON.parse(readFileSync(new URL('../../../../golden/dtype.json', import.meta.url), 'utf8')) as Record<
  string,
  string
>
const sha256 = (array: Float32Array | Uint16Array) =>
  createHash('sha256')
    .update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
    .digest('hex')
const bytesOf = (array: Uint16Array | Float32Array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)

/** Every 16-bit pattern that is not NaN, in order. */
function listPatterns(infinity: number): Uint16Array {
  return Uint16Array.from({ length: 65536 }, (_, pattern) => pattern).filter(
    (pattern) => (pattern & 0x7fff) <= infinity,
  )
}

function findNextFloat(value: number, towards: number): number {
  const bits = new Int32Array(Float32Array.of(value).buffer)
  if (value === 0) return towards > 0 ? 2 ** -149 : 0
  bits[0] = bits[0]! + (towards > value ? 1 : -1)
  return new Float32Array(bits.buffer)[0]!
}

/** As around_halves() of the script. */
function listValuesNearHalves(): Float32Array {
  const halves = new Float32Array(0x7c00)
  toFloat32(bytesOf(Uint16Array.from(halves.keys())), 'F16', 1, halves)
  const midpoints = Array.from(halves.subarray(1), (half, i) => (half + halves[i]!) / 2)
  const exact = Float32Array.from([...halves, ...midpoints, 65519.996, 65520, 65536, 1e30])
  const above = exact.map((value) => findNextFloat(value, Number.POSITIVE_INFINITY))
  const everything = [...exact, ...above, ...exact.map((value) => findNextFloat(value, 0))]
  return Float32Array.from([...everything, ...everything.map((value) => -value)])
}

describe('toFloat32', () => {
  it.each([
    ['F16', 0x7c00, 'float16_as_float32'],
    ['BF16', 0x7f80, 'bfloat16_as_float32'],
  ] as const)('decodes every %s pattern as numpy does', (dtype, infinity, key) => {
    const stored = listPatterns(infinity)
    const out = new Float32Array(stored.length)
    expect(toFloat32(bytesOf(stored), dtype, 1, out)).toEqual({ finite: false, overflow: false })
    expect(sha256(out)).toBe(golden[key])
  })

  it('multiplies by the scale and rounds once', () => {
    const out = new Float32Array(3)
    expect(toFloat32(Uint8Array.of(0x38, 0x7e, 0x81), 'F8_E4M3', 0.1, out)).toEqual({ finite: true, overflow: false })
    expect([...out]).toEqual([0.1, 44.8, -(2 ** -9) * 0.1].map(Math.fround))
  })

  it('reports the overflow of a product', () => {
    const out = new Float32Array(1)
    expect(toFloat32(bytesOf(Float32Array.of(2)), 'F32', 3e38, out)).toEqual({ finite: true, overflow: true })
  })

  it.each([
    ['F32', [0, 0, 0xc0, 0x7f]],
    ['F32', [0, 0, 0x80, 0xff]],
    ['F16', [0, 0x7e]],
    ['BF16', [0xc0, 0x7f]],
    ['F8_E4M3', [0xff]],
  ] as const)('finds a non-finite %s', (dtype, stored) => {
    expect(toFloat32(Uint8Array.from(stored), dtype, 1, new Float32Array(1)).finite).toBe(false)
  })

  it('finds a NaN at every position of a long block', () => {
    for (const at of [0, 1, 8191, 8192, 19_999]) {
      const values = new Float32Array(20_000)
      values[at] = Number.NaN
      expect(toFloat32(bytesOf(values), 'F32', 1, new Float32Array(20_000)).finite).toBe(false)
    }
  })

  it('reads blocks at unaligned addresses', () => {
    const out = new Float32Array(2)
    toFloat32(Uint8Array.of(0xaa, 0x80, 0x3f, 0x00, 0xc0).subarray(1), 'BF16', 1, out)
    expect([...out]).toEqual([1, -2])
  })

  it('refuses a block of the wrong length', () => {
    expect(() => toFloat32(new Uint8Array(3), 'F16', 1, new Float32Array(2))).toThrow('3 bytes are not 2 values of F16')
  })
})

describe('to float16', () => {
  it('rounds float32 half to even as numpy does, near every float16 and every midpoint', () => {
    const values = listValuesNearHalves()
    expect(sha256(values)).toBe(golden.near_halves)
    const out = new Uint16Array(values.length)
    expect(convertFloat32ToFloat16(values, out)).toEqual({ finite: true, overflow: true })
    expect(sha256(out)).toBe(golden.near_halves_as_float16)
  })

  it('converts every bfloat16 as numpy does through float32', () => {
    const stored = listPatterns(0x7f80)
    const out = new Uint16Array(stored.length)
    expect(convertBfloat16ToFloat16(bytesOf(stored), out)).toEqual({ finite: false, overflow: true })
    expect(sha256(out)).toBe(golden.bfloat16_as_float16)
  })

  it.each([
    [65519, { finite: true, overflow: false }],
    [65520, { finite: true, overflow: true }],
    [-65520, { finite: true, overflow: true }],
    [Number.POSITIVE_INFINITY, { finite: false, overflow: false }],
    [Number.NaN, { finite: false, overflow: false }],
  ])('reports whether %d is finite and overflows', (value, expected) => {
    expect(convertFloat32ToFloat16(Float32Array.of(1, value), new Uint16Array(2))).toEqual(expected)
  })

  it.each([
    [0x477f, { finite: true, overflow: false }],
    [0xc780, { finite: true, overflow: true }],
    [0x7f80, { finite: false, overflow: false }],
    [0xffc0, { finite: false, overflow: false }],
  ])('reports whether bfloat16 %i is finite and overflows', (pattern, expected) => {
    expect(convertBfloat16ToFloat16(bytesOf(Uint16Array.of(pattern)), new Uint16Array(1))).toEqual(expected)
  })
})
