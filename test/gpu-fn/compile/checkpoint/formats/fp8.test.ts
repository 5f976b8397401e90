import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { decodeTable, encode, quantizeRows } from '../../../../../gpu-fn/compile/checkpoint/formats/fp8.ts'

type Case = { rows: number; columns: number; block: number; weights: string; codes: string; scales: string }
type Golden = { decoded: string; values: string; codes: string; quantized: Case[] }

/** Results of ml_dtypes, from test/golden/scripts/fp8.py. */
const golden = JSON.parse(readFileSync(new URL('../../../../golden/fp8.json', import.meta.url), 'utf8')) as Golden
const decodeBytes = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'))
const decodeFloats = (base64: string) => new Float32Array(decodeBytes(base64).buffer)

/** NaN has a code of either sign, and JavaScript does not keep a NaN's. */
const withoutSignOfNaN = (codes: Iterable<number>) =>
  Array.from(codes, (code) => ((code & 0x7f) === 0x7f ? 0x7f : code))

describe('E4M3 codes', () => {
  it('decodes all 256 as ml_dtypes does', () => {
    expect(decodeTable).toEqual(decodeFloats(golden.decoded))
  })

  it('encodes every code, midpoint, neighbor of a midpoint, subnormal and overflow as ml_dtypes does', () => {
    const values = decodeFloats(golden.values)
    expect(values.length).toBeGreaterThan(1700)
    expect(withoutSignOfNaN(Array.from(values, encode))).toEqual(withoutSignOfNaN(decodeBytes(golden.codes)))
  })

  it('encodes every value the same way in bulk', () => {
    // A row that holds 448 has a scale of 1, so that codes are those of the values themselves.
    const values = decodeFloats(golden.values).filter((value) => Math.abs(value) <= 448)
    const codes = new Uint8Array(values.length)
    const scales = new Float32Array(1)
    expect(quantizeRows(values, 1, values.length, codes, scales)).toBe(true)
    expect(scales[0]).toBe(1)
    expect(Array.from(codes)).toEqual(Array.from(values, encode))
  })
})

describe('quantizeRows', () => {
  /** The other case of the golden file has several scales per row. */
  const byRow = golden.quantized.find(({ columns, block }) => block === columns)!

  it('is bit-identical to numpy and ml_dtypes', () => {
    const { rows, columns } = byRow
    const codes = new Uint8Array(rows * columns)
    const scales = new Float32Array(rows)
    expect(quantizeRows(decodeFloats(byRow.weights), rows, columns, codes, scales)).toBe(true)
    expect(scales).toEqual(decodeFloats(byRow.scales))
    expect(codes).toEqual(decodeBytes(byRow.codes))
  })

  it('uses a scale of 1 for rows of zeros', () => {
    const scales = new Float32Array(2)
    const codes = new Uint8Array(6)
    quantizeRows(Float32Array.of(0, -0, 0, 1, 2, 4), 2, 3, codes, scales)
    expect(scales[0]).toBe(1)
    expect([...codes.subarray(0, 3)]).toEqual([0, 0x80, 0])
  })

  it.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])('reports a weight of %d', (bad) => {
    const weights = Float32Array.of(1, 2, 3, bad)
    expect(quantizeRows(weights, 2, 2, new Uint8Array(4), new Float32Array(2))).toBe(false)
  })

  it('is exact to within half a step', () => {
    const [codes, scales] = [decodeBytes(byRow.codes), decodeFloats(byRow.scales)]
    decodeFloats(byRow.weights).forEach((weight, i) => {
      const scale = scales[Math.floor(i / byRow.columns)]!
      const halfStep = Math.max(Math.abs(weight) / 16, scale * 2 ** -10)
      expect(Math.abs(decodeTable[codes[i]!]! * scale - weight)).toBeLessThanOrEqual(halfStep * (1 + 1e-6))
    })
  })
})
