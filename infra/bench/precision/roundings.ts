// Number formats of weights: functions for rounding a float32 matrix [rows, columns] in place.
import { decodeTable, quantizeRows } from '../../../gpu-fn/compile/checkpoint/formats/fp8.ts'
import { GROUP, GROUP_BYTES, quantizePacked, unpackCodes } from '../../../gpu-fn/compile/checkpoint/formats/fp8-int4.ts'
import { blockOf, type IntegerBits, quantizeBlocks } from '../../../gpu-fn/compile/checkpoint/formats/integer-blocks.ts'

export type Rounding = (values: Float32Array, rows: number, columns: number) => void

/** Rounds to float16. */
export const toFloat16: Rounding = (values) => {
  for (let i = 0; i < values.length; i++) values[i] = Math.f16round(values[i]!)
}

/** Rounds to E4M3 with a scale per row, as the compiler does. */
export const toFp8Rows: Rounding = (values, rows, columns) => {
  const codes = new Uint8Array(values.length)
  const scales = new Float32Array(rows)
  quantizeRows(values, rows, columns, codes, scales)
  for (let i = 0; i < values.length; i++) values[i] = decodeTable[codes[i]!]! * scales[Math.floor(i / columns)]!
}

/** Rounds to 4-bit FP8 like the compiler and target cuda-fp8. */
export const toFp8Int4: Rounding = (values, rows, columns) => {
  if (columns % GROUP !== 0) return toFp8Rows(values, rows, columns)
  const groups = values.length / GROUP
  const packed = new Uint8Array(groups * GROUP_BYTES)
  const [groupScales, scales] = [new Uint8Array(groups), new Float32Array(rows)]
  quantizePacked(values, rows, columns, { packed, groupScales, scales })
  const codes = unpackCodes(packed, groupScales)
  for (let i = 0; i < values.length; i++) values[i] = decodeTable[codes[i]!]! * scales[Math.floor(i / columns)]!
}

/** `toFp8Rows` with each column normalized by its root mean square. */
export const toFp8RowsAndColumns: Rounding = (values, rows, columns) => {
  const squares = new Float64Array(columns)
  for (let i = 0; i < values.length; i++) squares[i % columns]! += values[i]! ** 2
  const scales = squares.map((sum) => Math.sqrt(sum / rows) || 1)
  for (let i = 0; i < values.length; i++) values[i]! /= scales[i % columns]!
  toFp8Rows(values, rows, columns)
  for (let i = 0; i < values.length; i++) values[i]! *= scales[i % columns]!
}

/** Rounds to block-quantized integers, as the compiler does. */
export const toIntegers =
  (bits: IntegerBits): Rounding =>
  (values, rows, columns) => {
    const block = blockOf(columns, bits)
    if (block === null) return toFloat16(values, rows, columns)
    const codes = new Uint8Array((values.length * bits) / 8)
    const scales = new Float32Array(values.length / block)
    quantizeBlocks(values, bits, block, codes, scales)
    for (let i = 0; i < values.length; i++) {
      const code = bits === 8 ? codes[i]! : (codes[i >> 1]! >> (4 * (i % 2))) & 15
      values[i] = (code - 2 ** (bits - 1)) * scales[Math.floor(i / block)]!
    }
  }

/** Rounds to 6-bit integers with one scale per block of 32 values. The compiler does not support this format. */
export const toSixBits: Rounding = (values, _rows, columns) => {
  if (columns % 32 !== 0) throw new Error(`rows of ${columns} values are not divisible into blocks of 32`)
  for (let start = 0; start < values.length; start += 32) {
    const block = values.subarray(start, start + 32)
    const extreme = block.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0)
    const scale = Math.f16round(extreme / -32) || 1
    for (let i = 0; i < 32; i++) block[i] = Math.max(-32, Math.min(31, Math.round(block[i]! / scale))) * scale
  }
}
