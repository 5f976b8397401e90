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
    const downs = await Promise.all(here.map((part) => readDown(files, part, columns)))
    const down = { data: concat(downs), dims: [rankOf(here), columns] }
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

function concat(arrays: readonly Float32Array[]): Float32Array {
  if (arrays.length === 1) return arrays[0]!
  const all = new Float32Array(arrays.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const array of arrays) {
    all.set(array, at)
    at += array.length
  }
  return all
}

/** Matrices `up` of all parts beside each other [end - start, R]. */
async function readUp(files: FactorFiles, parts: readonly LowRank[], start: number, end: number): Promise<Tensor> {
  const total = rankOf(parts)
  const ups = await Promise.all(
    parts.map(({ file, up, rank, rows, firstRow }) =>
      files.read(file, up, (firstRow + start - rows[0]) * rank, (end - start) * rank),
    ),
  )
  const dims = [end - start, total]
  if (parts.length === 1) return { data: ups[0]!, dims }
  const data = new Float32Array((end - start) * total)
  let column = 0
  for (const [i, { rank }] of parts.entries()) {
    for (let row = 0; row < end - start; row++)
      data.set(ups[i]!.subarray(row * rank, (row + 1) * rank), row * total + column)
    column += rank
  }
  return { data, dims }
}

async function readDown(
  files: FactorFiles,
  { file, down, rank, channelsFirst }: LowRank,
  columns: number,
): Promise<Float32Array> {
  const data = await files.read(file, down, 0, rank * columns)
  if (!channelsFirst) return data
  const [channels, height, width] = channelsFirst
  const area = height * width
  return data.map((_, at) => {
    const [row, place] = [Math.floor(at / columns), at % columns]
    return data[row * columns + (place % channels) * area + Math.floor(place / channels)]!
  })
}

/** Files of factors, each of which is opened once. */
export class FactorFiles implements AsyncDisposable {
  readonly #open = new Map<string, Promise<FileHandle>>()

  /** `count` values of a matrix from index `first`, in float32. */
  async read(file: string, { dtype, offset }: LoraModule['up'], first: number, count: number): Promise<Float32Array> {
    const opened = this.#open.get(file) ?? open(file)
    this.#open.set(file, opened)
    const size = FACTOR_BYTES[dtype]
    const bytes = new Uint8Array(count * size)
    const { bytesRead } = await (await opened).read(bytes, 0, bytes.length, offset + first * size)
    if (bytesRead !== bytes.length) throw new Error(`${file} ends within a matrix`)
    if (dtype === 'float32') return new Float32Array(bytes.buffer)
    return dtype === 'float16' ? new Float32Array(new Float16Array(bytes.buffer)) : widen(new Uint16Array(bytes.buffer))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const opened of await Promise.allSettled(this.#open.values()))
      if (opened.status === 'fulfilled') await opened.value.close()
  }
}

function widen(halves: Uint16Array): Float32Array {
  const bits = new Uint32Array(halves.length)
  for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16
  return new Float32Array(bits.buffer)
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
