// One block of a tensor, read from its checkpoint and turned into a package's bytes. Runs in a worker thread.
import { hash } from 'node:crypto'
import fs from 'node:fs'
import type { Part, Tensor } from './checkpoint.ts'
import { CheckpointError } from './checkpoint-error.ts'
import { BYTES_PER_ELEMENT, bfloat16ToFloat16, type Conversion, float32ToFloat16, toFloat32 } from './dtype.ts'
import { blocksPerRow, quantiseRows } from './fp8.ts'

export type Block = {
  readonly tensor: Tensor
  /** Rows [start, end) of the tensor as a matrix of `columns`. */
  readonly start: number
  readonly end: number
  readonly columns: number
  readonly storage: 'float32' | 'float16' | 'float8e4m3fn'
  /** Columns that share a scale. */
  readonly scaleBlock: number
  readonly channelsLast: boolean
}
export type Converted = { readonly output: Uint8Array; readonly scales: Float32Array | null; readonly digest: Uint8Array; readonly sourceBytes: number }

const FINITE: Conversion = { finite: true, overflow: false }
const files = new Map<string, number>()

/** Reads, checks and converts one block. Throws CheckpointError for NaN, infinity, and values that the storage type cannot hold. */
export function convert(block: Block): Converted {
  const source = readBlock(block)
  const digest = new Uint8Array(hash('sha256', source, 'buffer'))
  const { output, scales, conversion } = store(block, source)
  const where = `${block.tensor.name} (rows ${block.start} to ${block.end - 1})`
  const file = block.tensor.parts[0]!.file
  if (!conversion.finite) throw new CheckpointError(file, `tensor ${where} holds NaN or infinity`)
  if (conversion.overflow) throw new CheckpointError(file, `tensor ${where} holds values beyond ${block.storage}`)
  return { output: block.channelsLast ? channelsLast(output, block) : output, scales, digest, sourceBytes: source.byteLength }
}

/** Rows [start, end) of a tensor as float32. */
export function readFloat32(tensor: Tensor, start: number, end: number, columns: number): Float32Array {
  const block: Block = { tensor, start, end, columns, storage: 'float32', scaleBlock: columns, channelsLast: false }
  const { output } = convert(block)
  return new Float32Array(output.buffer, output.byteOffset, output.byteLength / 4)
}

function store(block: Block, source: Uint8Array): { output: Uint8Array; scales: Float32Array | null; conversion: Conversion } {
  const { tensor, storage, columns, scaleBlock } = block
  const count = (block.end - block.start) * columns
  const exact = tensor.scale === 1
  if (storage === 'float16') {
    if (exact && tensor.dtype === 'F16') return { output: source, scales: null, conversion: finiteHalves(source) }
    const output = new Uint16Array(count)
    if (exact && tensor.dtype === 'BF16') return { output: new Uint8Array(output.buffer), scales: null, conversion: bfloat16ToFloat16(source, output) }
    const values = new Float32Array(count)
    const widened = toFloat32(source, tensor.dtype, tensor.scale, values)
    const narrowed = float32ToFloat16(values, output)
    const conversion = { finite: widened.finite, overflow: widened.overflow || narrowed.overflow }
    return { output: new Uint8Array(output.buffer), scales: null, conversion }
  }
  const values = new Float32Array(count)
  const conversion = toFloat32(source, tensor.dtype, tensor.scale, values)
  if (storage === 'float32') return { output: new Uint8Array(values.buffer), scales: null, conversion }
  const rows = block.end - block.start
  const output = new Uint8Array(count)
  const scales = new Float32Array(rows * blocksPerRow(columns, scaleBlock))
  quantiseRows(values, rows, columns, output, scales, scaleBlock)
  return { output, scales, conversion }
}

function finiteHalves(bytes: Uint8Array): Conversion {
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)
  let largest = 0
  for (let i = 0; i < halves.length; i++) largest = Math.max(largest, halves[i]! & 0x7fff)
  return largest < 0x7c00 ? FINITE : { finite: false, overflow: false }
}

/** Each row [I, H, W] as [H, W, I]. */
function channelsLast(bytes: Uint8Array, { tensor, storage, start, end }: Block): Uint8Array {
  const [, channels, height, width] = tensor.shape as [number, number, number, number]
  const View = storage === 'float32' ? Uint32Array : Uint16Array
  const source = new View(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / View.BYTES_PER_ELEMENT)
  const output = new View(source.length)
  const area = height * width
  for (let row = 0; row < end - start; row++) {
    const base = row * channels * area
    for (let i = 0; i < channels; i++) for (let p = 0; p < area; p++) output[base + p * channels + i] = source[base + i * area + p]!
  }
  return new Uint8Array(output.buffer)
}

function readBlock({ tensor, start, end, columns }: Block): Uint8Array {
  const rowBytes = columns * BYTES_PER_ELEMENT[tensor.dtype]
  const output = new Uint8Array((end - start) * rowBytes)
  let position = -start * rowBytes
  for (const part of tensor.parts) {
    const from = Math.max(0, -position)
    const to = Math.min(part.bytes, output.byteLength - position)
    if (from < to) readPart(tensor, part, from, output.subarray(position + from, position + to))
    position += part.bytes
  }
  return output
}

function readPart(tensor: Tensor, part: Part, from: number, into: Uint8Array): void {
  let file = files.get(part.file)
  if (file === undefined) files.set(part.file, (file = fs.openSync(part.file, 'r')))
  for (let done = 0; done < into.byteLength; ) {
    const count = fs.readSync(file, into, done, into.byteLength - done, part.offset + from + done)
    if (count === 0) throw new CheckpointError(part.file, `ended while tensor ${tensor.name} was read; has the file changed?`)
    done += count
  }
}

