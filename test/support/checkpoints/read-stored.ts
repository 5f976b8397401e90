// The bytes of tensors as a checkpoint stores them.
import { readFile } from 'node:fs/promises'
import type { Tensor } from '../../../gpu-fn/compile/checkpoint/tensor.ts'

/** A function that returns the stored bytes of a tensor, its parts joined; each file is read once. */
export function readStored(): (tensor: Tensor) => Promise<Uint8Array> {
  const files = new Map<string, Promise<Buffer>>()
  function read(file: string): Promise<Buffer> {
    const content = files.get(file) ?? readFile(file)
    files.set(file, content)
    return content
  }
  return async ({ parts }) => {
    const pieces = parts.map(async ({ file, offset, bytes }) => (await read(file)).subarray(offset, offset + bytes))
    return Buffer.concat(await Promise.all(pieces))
  }
}
