// The learned positions of a latent: the middle of a package's table. mmditx.py `cropped_pos_embed`.
import { open } from 'node:fs/promises'
import path from 'node:path'
import type { Package } from '../manifest.ts'
import type { Tensor } from '../runtime/session.ts'

const FLOAT_BYTES = 4

/** Positions [rows · columns, D] of a latent of `rows` × `columns` patches; undefined if the step graph computes them. */
export async function readPosition(
  { directory, manifest }: Package,
  rows: number,
  columns: number,
): Promise<Tensor | undefined> {
  const { source, max, width, file } = manifest.position
  if (source === 'graph' || file === undefined) return undefined
  const top = Math.floor((max - rows) / 2)
  const left = Math.floor((max - columns) / 2)
  const rowBytes = columns * width * FLOAT_BYTES
  const bytes = new Uint8Array(rows * rowBytes)
  await using table = await open(path.join(directory, file))
  for (let row = 0; row < rows; row++) {
    const start = ((top + row) * max + left) * width * FLOAT_BYTES
    const { bytesRead } = await table.read(bytes, row * rowBytes, rowBytes, start)
    if (bytesRead !== rowBytes) throw new Error(`${file} ends before row ${top + row} of ${max}`)
  }
  return { data: new Float32Array(bytes.buffer), dims: [rows * columns, width] }
}
