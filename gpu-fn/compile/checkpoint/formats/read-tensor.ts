// Reads the rows of tensors from their files, synchronously, for worker threads.
import fs from 'node:fs'
import { CheckpointError, quote } from '../error.ts'
import type { Part, Tensor } from '../tensor.ts'
import { bytesOf, type Conversion, type ParameterDtype, type Scale, toFloat32 } from './dtype.ts'

/** Rows [start, end) of a tensor as a matrix of `columns` columns. */
export type RowBlock = {
  readonly tensor: Tensor
  readonly start: number
  readonly end: number
  readonly columns: number
}

type FileRange = Pick<Part, 'file' | 'offset' | 'bytes'>

// Each thread reads all blocks into one buffer, because the page faults of new buffers would take longer than the conversion.
let scratch = new Uint8Array()
const descriptors = new Map<string, number>()

/** The rows of a block within one part: their bytes, and their scale or scales. */
export type Run = {
  readonly dtype: ParameterDtype
  readonly source: Uint8Array
  readonly scale: Scale
  readonly rows: number
}

/** The rows of a block, part by part, each in a buffer that the next one overwrites. Throws CheckpointError. */
export function* readRuns({ tensor, start, end, columns }: RowBlock): Generator<Run> {
  let first = 0
  for (const part of tensor.parts) {
    const rowBytes = bytesOf(part.dtype, columns)
    const rows = rowBytes === 0 ? 0 : part.bytes / rowBytes
    const [from, to] = [Math.max(start - first, 0), Math.min(end - first, rows)]
    if (from < to) {
      const source = getScratchBytes((to - from) * rowBytes)
      readPart(tensor.name, part, from * rowBytes, source)
      const scale = typeof part.scale === 'number' ? part.scale : part.scale.subarray(from, to)
      yield { dtype: part.dtype, source, scale, rows: to - from }
    }
    first += rows
  }
  if (columns > 0 && first < end) throw new CheckpointError(tensor.parts[0]!.file, `tensor ${tensor.name} is too short`)
}

/** A block as float32. Throws CheckpointError, including for NaN and infinity. */
export function readFloat32(block: RowBlock): Float32Array {
  const values = new Float32Array((block.end - block.start) * block.columns)
  let done = 0
  for (const { source, dtype, scale, rows } of readRuns(block)) {
    const count = rows * block.columns
    assertConverted(block, 'float32', toFloat32(source, dtype, scale, values.subarray(done, done + count)))
    done += count
  }
  return values
}

/** All bytes of a small tensor. Throws CheckpointError. */
export function readBytes(info: FileRange & { readonly name: string }): Uint8Array {
  const bytes = new Uint8Array(info.bytes)
  readPart(quote(info.name), info, 0, bytes)
  return bytes
}

/** Throws CheckpointError for NaN, infinity, and values that the storage type cannot hold. */
export function assertConverted({ tensor, start, end }: RowBlock, storage: string, { finite, overflow }: Conversion) {
  const where = `${tensor.name} (rows ${start} to ${end - 1})`
  const file = tensor.parts[0]!.file
  if (!finite) throw new CheckpointError(file, `tensor ${where} contains NaN or infinity`)
  if (overflow) throw new CheckpointError(file, `tensor ${where} contains values beyond ${storage}`)
}

/** Closes this thread's files; a file that is replaced later is then opened again. */
export function closeFiles(): void {
  for (const descriptor of descriptors.values()) fs.closeSync(descriptor)
  descriptors.clear()
}

function getScratchBytes(length: number): Uint8Array {
  if (scratch.length < length) scratch = new Uint8Array(length)
  return scratch.subarray(0, length)
}

function readPart(name: string, { file, offset }: FileRange, from: number, into: Uint8Array): void {
  try {
    const descriptor = open(file)
    for (let done = 0; done < into.byteLength; ) {
      const count = fs.readSync(descriptor, into, done, into.byteLength - done, offset + from + done)
      if (count === 0) throw new CheckpointError(file, `ended while tensor ${name} was read; the file may have changed`)
      done += count
    }
  } catch (error) {
    if (error instanceof CheckpointError) throw error
    throw new CheckpointError(file, `tensor ${name} cannot be read (${(error as Error).message})`, {
      cause: error,
    })
  }
}

function open(file: string): number {
  // The file was checked when its header was read; without O_NONBLOCK a pipe in its place would block the thread.
  const flags = fs.constants.O_RDONLY | fs.constants.O_NONBLOCK
  const descriptor = descriptors.get(file) ?? fs.openSync(file, flags)
  descriptors.set(file, descriptor)
  return descriptor
}
