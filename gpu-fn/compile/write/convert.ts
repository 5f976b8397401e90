// Reads one block of a tensor from its checkpoint and converts it to the package's storage type. Runs in a worker thread.
import { createHash } from 'node:crypto'
import {
  type Conversion,
  convertBfloat16ToFloat16,
  convertFloat32ToFloat16,
  toFloat32,
} from '../checkpoint/formats/dtype.ts'
import { quantizeRows } from '../checkpoint/formats/fp8.ts'
import { GROUP, type PackedRows, quantizePacked } from '../checkpoint/formats/fp8-int4.ts'
import { blockOf, type IntegerBits, quantizeBlocks } from '../checkpoint/formats/integer-blocks.ts'
import { assertConverted, type RowBlock, type Run, readRuns } from '../checkpoint/formats/read-tensor.ts'
import type { Storage } from '../graph/precision.ts'

export type Block = RowBlock & {
  readonly storage: Storage
  readonly channelsLast: boolean
}
export type ConvertedBlock = {
  readonly output: Uint8Array
  /** Row scales; block scales for block-quantized integers. */
  readonly scales: Float32Array | null
  /** Group scale bytes of 4-bit FP8. */
  readonly groupScales: Uint8Array | null
  readonly digest: Uint8Array
  readonly sourceBytes: number
  /** Whether all bytes in the checkpoint are 0. */
  readonly blank: boolean
}

const FP8_NAN = 0x7f
const STORAGE_BYTES = {
  ...{ float32: 4, float16: 2, float8e4m3fn: 1, int8: 1, int4: 0.5, 'fp8-int4': 0.5 },
} as const satisfies Record<Storage, number>
// All blocks of a thread are widened in one buffer, because page faults of new buffers would take longer than the conversion.
let floatsScratch = new Float32Array()

function getScratchFloats(length: number): Float32Array {
  if (floatsScratch.length < length) floatsScratch = new Float32Array(length)
  return floatsScratch.subarray(0, length)
}

const FINITE: Conversion = { finite: true, overflow: false }

/** Reads, checks and converts one block. Throws CheckpointError for NaN, infinity, and values that the storage type cannot hold. */
export function convert(block: Block): ConvertedBlock {
  const { storage, columns, start, end } = block
  const rowBytes = columns * STORAGE_BYTES[storage]
  const output = new Uint8Array((end - start) * rowBytes)
  const rowScales = countScalesPerRow(storage, columns)
  const scales = rowScales === 0 ? null : new Float32Array((end - start) * rowScales)
  const rowGroups = storage === 'fp8-int4' ? columns / GROUP : 0
  const groupScales = rowGroups === 0 ? null : new Uint8Array((end - start) * rowGroups)
  const digest = createHash('sha256')
  let [row, sourceBytes, blank] = [0, 0, true]
  for (const run of readRuns(block)) {
    digest.update(run.source)
    sourceBytes += run.source.byteLength
    blank &&= run.source.every((byte) => byte === 0)
    const out = output.subarray(row * rowBytes, (row + run.rows) * rowBytes)
    const ofRows = scales?.subarray(row * rowScales, (row + run.rows) * rowScales)
    const ofGroups = groupScales?.subarray(row * rowGroups, (row + run.rows) * rowGroups)
    assertConverted(block, storage, store(run, storage, { out, scales: ofRows, groupScales: ofGroups }))
    row += run.rows
  }
  const ordered = block.channelsLast ? moveChannelsLast(output, block) : output
  return { output: ordered, scales, groupScales, digest: new Uint8Array(digest.digest()), sourceBytes, blank }
}

/** Output arrays of a run. `out` is aligned to the value size. */
type Results = {
  readonly out: Uint8Array
  readonly scales: Float32Array | undefined
  readonly groupScales: Uint8Array | undefined
}

/** Converts a run. */
function store(run: Run, storage: Storage, { out, scales, groupScales }: Results): Conversion {
  if (scales && groupScales) return toPacked(run, { packed: out, scales, groupScales })
  if (scales && (storage === 'int8' || storage === 'int4'))
    return toIntegers(run, storage === 'int8' ? 8 : 4, out, scales)
  if (scales) return run.dtype === 'F8_E4M3' ? keepCodes(run, out, scales) : quantize(run, out, scales)
  const count = out.byteLength / STORAGE_BYTES[storage]
  if (storage === 'float16') return toHalves(run, new Uint16Array(out.buffer, out.byteOffset, count))
  return toFloat32(run.source, run.dtype, run.scale, new Float32Array(out.buffer, out.byteOffset, count))
}

function countScalesPerRow(storage: Storage, columns: number): number {
  if (storage === 'float8e4m3fn' || storage === 'fp8-int4') return 1
  return storage === 'int8' || storage === 'int4' ? columns / blockOf(columns, storage === 'int8' ? 8 : 4)! : 0
}

function toHalves({ dtype, scale, source }: Run, halves: Uint16Array): Conversion {
  if (dtype === 'F16' && scale === 1) {
    new Uint8Array(halves.buffer, halves.byteOffset, halves.byteLength).set(source)
    return checkHalves(halves)
  }
  if (dtype === 'BF16' && scale === 1) return convertBfloat16ToFloat16(source, halves)
  const values = getScratchFloats(halves.length)
  const widened = toFloat32(source, dtype, scale, values)
  const narrowed = convertFloat32ToFloat16(values, halves)
  return { finite: widened.finite, overflow: widened.overflow || narrowed.overflow }
}

/** Codes of FP8 checkpoints are copied: quantizing them again would add error. */
function keepCodes({ source, scale }: Run, out: Uint8Array, scales: Float32Array): Conversion {
  out.set(source)
  if (typeof scale === 'number') scales.fill(scale)
  else scales.set(scale)
  return { finite: !source.some((code) => (code & 0x7f) === FP8_NAN), overflow: false }
}

function quantize({ source, dtype, scale, rows }: Run, out: Uint8Array, scales: Float32Array): Conversion {
  const values = getScratchFloats(out.byteLength)
  const conversion = toFloat32(source, dtype, scale, values)
  quantizeRows(values, rows, out.byteLength / rows, out, scales)
  return conversion
}

function toPacked({ source, dtype, scale, rows }: Run, out: PackedRows): Conversion {
  const values = getScratchFloats(out.packed.length * 2)
  const conversion = toFloat32(source, dtype, scale, values)
  quantizePacked(values, rows, values.length / rows, out)
  return conversion
}

function toIntegers(
  { source, dtype, scale }: Run,
  bits: IntegerBits,
  out: Uint8Array,
  scales: Float32Array,
): Conversion {
  const values = getScratchFloats((out.byteLength * 8) / bits)
  const conversion = toFloat32(source, dtype, scale, values)
  const fits = quantizeBlocks(values, bits, values.length / scales.length, out, scales)
  return { finite: conversion.finite, overflow: conversion.overflow || !fits }
}

function checkHalves(halves: Uint16Array): Conversion {
  let largest = 0
  for (let i = 0; i < halves.length; i++) largest = Math.max(largest, halves[i]! & 0x7fff)
  return largest < 0x7c00 ? FINITE : { finite: false, overflow: false }
}

/** Transposes each row [I, H, W] to [H, W, I]. */
function moveChannelsLast(bytes: Uint8Array, { tensor, storage, start, end }: Block): Uint8Array {
  const [, channels, height, width] = tensor.shape as [number, number, number, number]
  const View = storage === 'float32' ? Uint32Array : Uint16Array
  const source = new View(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / View.BYTES_PER_ELEMENT)
  const output = new View(source.length)
  const area = height * width
  for (let row = 0; row < end - start; row++) {
    const base = row * channels * area
    for (let i = 0; i < channels; i++)
      for (let p = 0; p < area; p++) output[base + p * channels + i] = source[base + i * area + p]!
  }
  return new Uint8Array(output.buffer)
}
