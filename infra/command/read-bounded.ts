import { readFile, stat } from 'node:fs/promises'

/** Reads a file of at most `max` bytes. Throws an Error with the size and the limit for a larger file, and file-system errors. */
export async function readBounded(file: string, max: number): Promise<Buffer> {
  const { size } = await stat(file)
  if (size > max) throw new Error(`${file} has ${size} bytes; at most ${max} are allowed`)
  return readFile(file)
}
