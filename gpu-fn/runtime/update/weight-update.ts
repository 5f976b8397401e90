// Low-rank updates of stored weights: weight + Σ scale · up · down. onnxruntime computes them on the device of the weights, with the graphs
// of an adapter's package.
import { type FileHandle, open } from 'node:fs/promises'
import { countElements } from '../../dtype.ts'
import { FACTOR_BYTES, type LoraManifest, type LoraModule, type StoredTensor } from '../../manifest.ts'
import type { Tensor } from '../session.ts'

/** Matrices of an adapter: up [rows, rank] and down [rank, K] of its file of factors, with the scale of the request. */
export type LowRank = {
  readonly file: string
  readonly rank: number
  readonly scale: number
  readonly up: LoraModule['up']
  readonly down: LoraModule['down']
  /** Rows [start, end) of the stored weight that they update, and the first row of `up` for them. */
  readonly rows: readonly [start: number, end: number]
  readonly firstRow: number
  /** Shape [I, H, W] of a row of `down`, if the weight is stored as [O, H, W, I]. */
  readonly channelsFirst?: readonly [number, number, number] | undefined
}
/** A weight of a file, the scales of its rows if it is FP8, and its updates. */
export type WeightUpdate = { weight: StoredTensor; scales: StoredTensor | undefined; parts: readonly LowRank[] }
/** The updates of one network. Equal keys stand for equal updates. */
export type WeightUpdates = {
  readonly key: string
  readonly weights: readonly WeightUpdate[]
  /** Graph of each storage type, as a path. */
  readonly graphs: LoraManifest['graphs']
}

/** The graph that updates a weight, with our kernels if there are any. */
export function graphOf({ graphs }: WeightUpdates, { dtype }: StoredTensor, hasKernels: boolean): string {
  const kernel = hasKernels ? graphs[`${dtype}-kernel` as keyof LoraManifest['graphs']] : undefined
  return kernel ?? graphs[dtype as keyof LoraManifest['graphs']]
}

export const columnsOf = ({ shape }: StoredTensor): number => countElements(shape.slice(1))

/** Maximum number of values in a segment, which bounds the memory: about 40 bytes for each value. */
const VALUES_AT_ONCE = 1 << 23

/** Rows [start, end) of a weight and the matrices for them. */
export type Segment = { readonly start: number; readonly end: number; readonly inputs: Record<string, Tensor> }

/**
 * Divides a weight's rows into segments of at most `limit` values, with the same parts for all rows, and reads the matrices in float32.
 * Omits rows without parts.
 */
export async function* segmentsOf(
  { weight, parts }: Pick<WeightUpdate, 'weight' | 'parts'>,
  files: FactorFiles,
  limit = VALUES_AT_ONCE,
): AsyncGenerator<Segment> {
  const columns = columnsOf(weight)
  const step = Math.max(1, Math.floor(limit / columns))
  const bounds = [...new Set(parts.flatMap(({ rows }) => rows))].sort((a, b) => a - b)
  for (const [i, first] of bounds.entries()) {
    const last = bounds[i + 1]
    const here = parts.filter(({ rows }) => rows[0] <= first && first < rows[1])
    if (last === undefined || here.length === 0) continue
    const down = await readDown(files, here, columns)
    for (let start = first; start < last; start += step) {
      const end = Math.min(start + step, last)
      const up = await readUp(files, here, start, end)
      const factors = here.flatMap(({ rank, scale }) => new Array<number>(rank).fill(scale))
      const inputs = { up, down, factors: { data: Float32Array.from(factors), dims: [factors.length, 1] } }
      yield { start, end, inputs }
    }
  }
}

const rankOf = (parts: readonly LowRank[]) => parts.reduce((sum, { rank }) => sum + rank, 0)

/** Matrices `up` of all parts beside each other [end - start, R]. */
async function readUp(files: FactorFiles, parts: readonly LowRank[], start: number, end: number): Promise<Tensor> {
  const total = rankOf(parts)
  const data = new Float32Array((end - start) * total)
  let column = 0
  for (const { file, up, rank, rows, firstRow } of parts) {
    const block = { first: (firstRow + start - rows[0]) * rank, rows: end - start, width: rank }
    await files.read(file, up, block, { data, start: column, stride: total })
    column += rank
  }
  return { data, dims: [end - start, total] }
}

/** Matrices `down` of all parts below each other [R, K]. */
async function readDown(files: FactorFiles, parts: readonly LowRank[], columns: number): Promise<Tensor> {
  const total = rankOf(parts)
  const data = new Float32Array(total * columns)
  let row = 0
  for (const { file, down, rank, channelsFirst } of parts) {
    const start = row * columns
    await files.read(file, down, { first: 0, rows: rank, width: columns }, { data, start, stride: columns })
    if (channelsFirst) moveChannelsLast(data.subarray(start, start + rank * columns), channelsFirst)
    row += rank
  }
  return { data, dims: [total, columns] }
}

/** Reorders rows of [I, H, W] to [H, W, I]. */
function moveChannelsLast(rows: Float32Array, [channels, height, width]: readonly [number, number, number]): void {
  const area = height * width
  const columns = channels * area
  const given = rows.slice()
  for (let at = 0; at < rows.length; at++) {
    const place = at % columns
    rows[at] = given[at - place + (place % channels) * area + Math.floor(place / channels)]!
  }
}

/** Rows of a stored matrix: `rows` of `width` values from index `first`. */
type Block = { readonly first: number; readonly rows: number; readonly width: number }
/** Where the rows go: the first to index `start`, each next one `stride` later. */
type Place = { readonly data: Float32Array; readonly start: number; readonly stride: number }

/** Files of factors, each of which is opened once. One read at a time. */
export class FactorFiles implements AsyncDisposable {
  readonly #open = new Map<string, FileHandle>()
  #scratch = new ArrayBuffer(0)

  /** Reads rows of a matrix to their place, in float32. Throws an Error if the file ends within them. */
  async read(file: string, { dtype, offset }: LoraModule['up'], block: Block, place: Place): Promise<void> {
    const handle = this.#open.get(file) ?? (await open(file))
    this.#open.set(file, handle)
    const { first, rows, width } = block
    const size = FACTOR_BYTES[dtype]
    const count = rows * width
    if (this.#scratch.byteLength < count * size) this.#scratch = new ArrayBuffer(count * size)
    const bytes = new Uint8Array(this.#scratch, 0, count * size)
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, offset + first * size)
    if (bytesRead !== bytes.length) throw new Error(`${file} ends within a matrix`)
    if (dtype === 'bfloat16') return widen(new Uint16Array(this.#scratch, 0, count), width, place)
    const values = new (dtype === 'float16' ? Float16Array : Float32Array)(this.#scratch, 0, count)
    const { data, start, stride } = place
    for (let row = 0; row < rows; row++) data.set(values.subarray(row * width, (row + 1) * width), start + row * stride)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const handle of this.#open.values()) await handle.close()
  }
}

/** Copies bfloat16 values to float32. */
function widen(values: Uint16Array, width: number, { data, start, stride }: Place): void {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length)
  for (let from = 0, to = start; from < values.length; from += width, to += stride)
    for (let i = 0; i < width; i++) bits[to + i] = values[from + i]! << 16
}

/** Seeds of the random phases for the rounding of FP8 weights. */
const [ROW_SEED, COLUMN_SEED] = [0x9e3779b9, 0x85ebca6b]

/** The `count` pseudorandom numbers in [0, 1) from index `first`, equal on every machine. MurmurHash3's finalizer. */
function phasesFrom(seed: number, first: number, count: number): Float32Array {
  const phases = new Float32Array(count)
  for (let i = 0; i < count; i++) {
    let hash = Math.imul(first + i + 1, seed)
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
    phases[i] = ((hash ^ (hash >>> 16)) >>> 8) / 2 ** 24
  }
  return phases
}

/** The inputs that determine the rounding of rows [start, end) of an FP8 weight. */
export function phaseInputs({ start, end }: Segment, columns: number): Record<string, Tensor> {
  return {
    row_phases: { data: phasesFrom(ROW_SEED, start, end - start), dims: [end - start, 1] },
    column_phases: { data: phasesFrom(COLUMN_SEED, 0, columns), dims: [1, columns] },
  }
}
