// Reads the factors of segments from the files of adapters.
import { type FileHandle, open } from 'node:fs/promises'
import { ELEMENT_BYTES } from '../../dtype.ts'
import type { FactorDtype, LoraModule } from '../../manifest.ts'
import { settleAll } from '../settle-all.ts'
import type { Segment } from './weight-update.ts'

/** Strided block of a matrix: `rows` rows of `width` values, starting at index `first`, `stride` values apart. */
type Block = { readonly first: number; readonly rows: number; readonly width: number; readonly stride: number }

/** Factor files of adapters, each opened once. */
export class FactorFiles implements AsyncDisposable {
  readonly #open = new Map<string, Promise<FileHandle>>()

  /**
   * Reads up [R, N] and down [R, K] of a segment in `dtype`, with the rows of its parts concatenated. The destinations must be aligned to
   * elements. Throws an Error for a truncated file.
   */
  async read(segment: Segment, dtype: FactorDtype, places: { up: Uint8Array; down: Uint8Array }): Promise<void> {
    const { start, end, columns, parts } = segment
    const next = { up: 0, down: 0 }
    const placeOf = (name: 'up' | 'down', { rows, width }: Block) => {
      const from = next[name]
      next[name] += ELEMENT_BYTES[dtype] * rows * width
      return places[name].subarray(from, next[name])
    }
    const reads = parts.flatMap(({ file, up, down, rank, rows, upWidth, firstColumn, channelsFirst }) => {
      const upBlock = { first: firstColumn + start - rows[0], rows: rank, width: end - start, stride: upWidth }
      const downBlock = { first: 0, rows: rank, width: columns, stride: columns }
      const place = placeOf('down', downBlock)
      const readDown = async () => {
        await this.#readMatrix(file, down, downBlock, dtype, place)
        if (channelsFirst) moveChannelsLast(elementsOf(place, dtype), channelsFirst)
      }
      return [this.#readMatrix(file, up, upBlock, dtype, placeOf('up', upBlock)), readDown()]
    })
    await settleAll(reads)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const opened of await Promise.allSettled(this.#open.values()))
      if (opened.status === 'fulfilled') await opened.value.close()
  }

  async #readMatrix(file: string, matrix: LoraModule['up'], block: Block, dtype: FactorDtype, place: Uint8Array) {
    if (matrix.dtype === dtype) return this.#readBlock(file, matrix, block, place)
    const stored = new Uint8Array(block.rows * block.width * ELEMENT_BYTES[matrix.dtype])
    await this.#readBlock(file, matrix, block, stored)
    widen(stored, matrix.dtype, new Float32Array(place.buffer, place.byteOffset, place.byteLength / 4))
  }

  async #readBlock(file: string, { dtype, offset }: LoraModule['up'], block: Block, place: Uint8Array): Promise<void> {
    const opened = this.#open.get(file) ?? open(file)
    this.#open.set(file, opened)
    const handle = await opened
    const size = ELEMENT_BYTES[dtype]
    const isDense = block.width === block.stride
    const [count, bytes] = isDense ? [1, place.length] : [block.rows, block.width * size]
    const reads = Array.from({ length: count }, async (_, row) => {
      const at = offset + (block.first + row * block.stride) * size
      const { bytesRead } = await handle.read(place, row * bytes, bytes, at)
      if (bytesRead !== bytes) throw new Error(`${file} ends within a matrix`)
    })
    await settleAll(reads)
  }
}

/** Converts 16-bit values to float32, exactly. */
function widen(stored: Uint8Array, dtype: FactorDtype, into: Float32Array): void {
  const { buffer } = stored as Uint8Array<ArrayBuffer>
  if (dtype === 'float16') {
    into.set(new Float16Array(buffer))
    return
  }
  const [values, bits] = [new Uint16Array(buffer), new Uint32Array(into.buffer, into.byteOffset, into.length)]
  for (let i = 0; i < values.length; i++) bits[i] = values[i]! << 16
}

const elementsOf = ({ buffer, byteOffset, byteLength }: Uint8Array, dtype: FactorDtype) =>
  ELEMENT_BYTES[dtype] === 4
    ? new Uint32Array(buffer, byteOffset, byteLength / 4)
    : new Uint16Array(buffer, byteOffset, byteLength / 2)

/** Reorders rows of [I, H, W] to [H, W, I]. */
function moveChannelsLast(
  rows: Uint32Array | Uint16Array,
  [channels, height, width]: readonly [number, number, number],
): void {
  const area = height * width
  const columns = channels * area
  const given = rows.slice()
  for (let at = 0; at < rows.length; at++) {
    const place = at % columns
    rows[at] = given[at - place + (place % channels) * area + Math.floor(place / channels)]!
  }
}
