// One block of a tensor, read from its checkpoint and turned into a package's bytes. Runs in a worker thread.
import { hash } from 'node:crypto'
import fs from 'node:fs'
import {
  BYTES_PER_ELEMENT,
  bfloat16ToFloat16,
  type Conversion,
  float32ToFloat16,
  toFloat32,
} from '../checkpoint/dtype.ts'
import { CheckpointError } from '../checkpoint/error.ts'
import {
  addError,
  blocksPerRow,
  dequantiseRows,
  type ErrorSums,
  emptyErrorSums,
  quantiseRows,
} from '../checkpoint/fp8.ts'
import type { Part, Tensor } from '../checkpoint/tensor.ts'

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
export type Converted = {
  readonly output: Uint8Array
  readonly scales: Float32Array | null
  readonly digest: Uint8Array
  readonly sourceBytes: number
  /** Where several columns share a scale: the error of that, and of one scale a row, to choose by. */
  readonly errors: ScaleErrors | null
}
export type ScaleErrors = { readonly block: ErrorSums; readonly row: ErrorSums }
type Stored = Pick<Converted, 'output'> & Partial<Pick<Converted, 'scales' | 'errors'>> & { conversion: Conversion }

const FP8_NAN = 0x7f
// A thread reads and widens every block in the same two buffers: fresh ones would cost more in page faults than the conversion does.
let bytesScratch = new Uint8Array()
let floatsScratch = new Float32Array()

function scratchBytes(length: number): Uint8Array {
  if (bytesScratch.length < length) bytesScratch = new Uint8Array(length)
  return bytesScratch.subarray(0, length)
}

function scratchFloats(length: number): Float32Array {
  if (floatsScratch.length < length) floatsScratch = new Float32Array(length)
  return floatsScratch.subarray(0, length)
}

const FINITE: Conversion = { finite: true, overflow: false }
const descriptors = new Map<string, number>()

/** Reads, checks and converts one block. Throws CheckpointError for NaN, infinity, and values that the storage type cannot hold. */
export function convert(block: Block): Converted {
  const source = readBlock(block)
  const digest = new Uint8Array(hash('sha256', source, 'buffer'))
  const { output, scales = null, errors = null } = checked(block, store(block, source))
  const ordered = block.channelsLast ? channelsLast(output, block) : output
  return { output: ordered, scales, digest, sourceBytes: source.byteLength, errors }
}

/** Rows [start, end) of a tensor as float32. */
export function readFloat32(tensor: Tensor, start: number, end: number, columns: number): Float32Array {
  const block: Block = { tensor, start, end, columns, storage: 'float32', scaleBlock: columns, channelsLast: false }
  const { output } = checked(block, store(block, readBlock(block)))
  return new Float32Array(output.buffer, output.byteOffset, output.byteLength / 4)
}

function checked({ tensor, start, end, storage }: Block, stored: Stored): Stored {
  const where = `${tensor.name} (rows ${start} to ${end - 1})`
  const file = tensor.parts[0]!.file
  if (!stored.conversion.finite) throw new CheckpointError(file, `tensor ${where} holds NaN or infinity`)
  if (stored.conversion.overflow) throw new CheckpointError(file, `tensor ${where} holds values beyond ${storage}`)
  return stored
}

function store(block: Block, source: Uint8Array): Stored {
  if (block.storage === 'float16') return toHalves(block.tensor, source)
  if (block.storage === 'float8e4m3fn' && block.tensor.dtype === 'F8_E4M3') return keepCodes(block, source)
  const count = source.byteLength / BYTES_PER_ELEMENT[block.tensor.dtype]
  const values = block.storage === 'float32' ? new Float32Array(count) : scratchFloats(count)
  const conversion = toFloat32(source, block.tensor.dtype, block.tensor.scale, values)
  if (block.storage === 'float32') return { output: new Uint8Array(values.buffer), conversion }
  return { ...quantise(block, values), conversion }
}

function toHalves({ dtype, scale }: Tensor, source: Uint8Array): Stored {
  if (dtype === 'F16' && scale === 1) return { output: source.slice(), conversion: finiteHalves(source) }
  const halves = new Uint16Array(source.byteLength / BYTES_PER_ELEMENT[dtype])
  const output = new Uint8Array(halves.buffer)
  if (dtype === 'BF16' && scale === 1) return { output, conversion: bfloat16ToFloat16(source, halves) }
  const values = scratchFloats(halves.length)
  const widened = toFloat32(source, dtype, scale, values)
  const narrowed = float32ToFloat16(values, halves)
  return { output, conversion: { finite: widened.finite, overflow: widened.overflow || narrowed.overflow } }
}

/** A checkpoint that is FP8 already keeps its codes: quantising them a second time would only add error. */
function keepCodes({ tensor, start, end, columns, scaleBlock }: Block, source: Uint8Array): Stored {
  const scales = new Float32Array((end - start) * blocksPerRow(columns, scaleBlock)).fill(tensor.scale)
  const finite = !source.some((code) => (code & 0x7f) === FP8_NAN)
  return { output: source.slice(), scales, conversion: { finite, overflow: false } }
}

function quantise({ start, end, columns, scaleBlock }: Block, values: Float32Array) {
  const rows = end - start
  const output = new Uint8Array(values.length)
  const scales = new Float32Array(rows * blocksPerRow(columns, scaleBlock))
  quantiseRows(values, rows, columns, output, scales, scaleBlock)
  if (scaleBlock === columns) return { output, scales }
  const approximation = new Float32Array(values.length)
  const errorOf = (block: number) => {
    const codes = new Uint8Array(values.length)
    const blockScales = new Float32Array(rows * blocksPerRow(columns, block))
    quantiseRows(values, rows, columns, codes, blockScales, block)
    dequantiseRows(codes, rows, columns, blockScales, approximation, block)
    const sums = emptyErrorSums()
    addError(sums, values, approximation)
    return sums
  }
  return { output, scales, errors: { block: errorOf(scaleBlock), row: errorOf(columns) } }
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
    for (let i = 0; i < channels; i++)
      for (let p = 0; p < area; p++) output[base + p * channels + i] = source[base + i * area + p]!
  }
  return new Uint8Array(output.buffer)
}

function readBlock({ tensor, start, end, columns }: Block): Uint8Array {
  const rowBytes = columns * BYTES_PER_ELEMENT[tensor.dtype]
  const output = scratchBytes((end - start) * rowBytes)
  let position = -start * rowBytes
  for (const part of tensor.parts) {
    const from = Math.max(0, -position)
    const to = Math.min(part.bytes, output.byteLength - position)
    if (from < to) readPart(tensor, part, from, output.subarray(position + from, position + to))
    position += part.bytes
  }
  if (position < output.byteLength)
    throw new CheckpointError(tensor.parts[0]!.file, `tensor ${tensor.name} is too short`)
  return output
}

function readPart(tensor: Tensor, { file, offset }: Part, from: number, into: Uint8Array): void {
  try {
    const descriptor = open(file)
    for (let done = 0; done < into.byteLength; ) {
      const count = fs.readSync(descriptor, into, done, into.byteLength - done, offset + from + done)
      if (count === 0)
        throw new CheckpointError(file, `ended while tensor ${tensor.name} was read; has the file changed?`)
      done += count
    }
  } catch (error) {
    if (error instanceof CheckpointError) throw error
    throw new CheckpointError(file, `tensor ${tensor.name} cannot be read (${(error as Error).message})`, {
      cause: error,
    })
  }
}

function open(file: string): number {
  const descriptor = descriptors.get(file) ?? fs.openSync(file, 'r')
  descriptors.set(file, descriptor)
  return descriptor
}

/** Closes what this thread has open; a file that is replaced later is then read anew. */
export function closeFiles(): void {
  for (const descriptor of descriptors.values()) fs.closeSync(descriptor)
  descriptors.clear()
}
