// Reads the rows of tensors from their files, synchronously, for worker threads.
import fs from 'node:fs'
import { CheckpointError } from '../error.ts'
import type { Part, Tensor } from '../tensor.ts'
import { BYTES_PER_ELEMENT, type Conversion, toFloat32 } from './dtype.ts'

/** Rows [start, end) of a tensor as a matrix of `columns` columns. */
export type RowBlock = {
  readonly tensor: Tensor
  readonly start: number
  readonly end: number
  readonly columns: number
}

// Every block of a thread is read into the same buffer: the page faults of fresh ones would take longer than their conversion.
let scratch = new Uint8Array()
const descriptors = new Map<string, number>()

/** The bytes of a block, in a buffer that the next call overwrites. Throws CheckpointError. */
export function readRows({ tensor, start, end, columns }: RowBlock): Uint8Array {
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

/** A block as float32. Throws CheckpointError, also for NaN and infinity. */
export function readFloat32(block: RowBlock): Float32Array {
  const source = readRows(block)
  const { dtype, scale } = block.tensor
  const values = new Float32Array(source.byteLength / BYTES_PER_ELEMENT[dtype])
  assertConverted(block, 'float32', toFloat32(source, dtype, scale, values))
  return values
}

/** Throws CheckpointError for NaN, infinity, and values that the storage type cannot hold. */
export function assertConverted({ tensor, start, end }: RowBlock, storage: string, { finite, overflow }: Conversion) {
  const where = `${tensor.name} (rows ${start} to ${end - 1})`
  const file = tensor.parts[0]!.file
  if (!finite) throw new CheckpointError(file, `tensor ${where} holds NaN or infinity`)
  if (overflow) throw new CheckpointError(file, `tensor ${where} holds values beyond ${storage}`)
}

/** Closes this thread's files; a file that is replaced later is then opened again. */
export function closeFiles(): void {
  for (const descriptor of descriptors.values()) fs.closeSync(descriptor)
  descriptors.clear()
}

function scratchBytes(length: number): Uint8Array {
  if (scratch.length < length) scratch = new Uint8Array(length)
  return scratch.subarray(0, length)
}

function readPart(tensor: Tensor, { file, offset }: Part, from: number, into: Uint8Array): void {
  try {
    const descriptor = open(file)
    for (let done = 0; done < into.byteLength; ) {
      const count = fs.readSync(descriptor, into, done, into.byteLength - done, offset + from + done)
      if (count === 0)
        throw new CheckpointError(file, `ended while tensor ${tensor.name} was read; the file may have changed`)
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
