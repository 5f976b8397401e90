// Low-rank updates of stored weights: weight + Σ scale · up transposed · down. onnxruntime computes them on the device of the weights, with
// the graphs of an adapter's package.
import { countElements } from '../../dtype.ts'
import {
  type FactorDtype,
  type LoraManifest,
  type LoraModule,
  type StoredTensor,
  shapeOfValues,
} from '../../manifest.ts'

/** Matrices of an adapter: up [rank, N] and down [rank, K] of its file of factors, with the scale of the request. */
export type LowRank = {
  readonly file: string
  readonly rank: number
  readonly scale: number
  readonly up: LoraModule['up']
  readonly down: LoraModule['down']
  /** Rows [start, end) of the stored weight that they update, N, and the first column of `up` for these rows. */
  readonly rows: readonly [start: number, end: number]
  readonly upWidth: number
  readonly firstColumn: number
  /** Shape [I, H, W] of a row of `down`, if the weight is stored as [O, H, W, I]. */
  readonly channelsFirst?: readonly [number, number, number] | undefined
}
/** A weight of a file, the scales of its rows if it is FP8 or of its blocks if it has integers, and its updates. */
export type WeightUpdate = { weight: StoredTensor; scales: StoredTensor | undefined; parts: readonly LowRank[] }
/** The updates of one network. Equal keys stand for equal updates. */
export type WeightUpdates = {
  readonly key: string
  readonly weights: readonly WeightUpdate[]
  /** Graph of each type of factors and of each storage type, as a path. */
  readonly graphs: LoraManifest['graphs']
}

/** The graph that updates a weight by factors of one type, with our kernels if there are any. */
export function graphOf(
  { graphs }: WeightUpdates,
  factors: FactorDtype,
  { weight: { dtype }, scales }: Pick<WeightUpdate, 'weight' | 'scales'>,
  hasKernels: boolean,
): string {
  const files: Partial<Record<string, string>> = graphs[factors]
  if (dtype === 'uint8') return files[`uint8-${scales!.dtype}`]!
  return (hasKernels ? files[`${dtype}-kernel`] : undefined) ?? files[dtype]!
}

export const columnsOf = (tensor: StoredTensor): number => countElements(shapeOfValues(tensor).slice(1))

/** The type of all factors; float32 if they are of several types. */
export function factorDtypeOf({ weights }: WeightUpdates): FactorDtype {
  const dtypes = new Set(weights.flatMap(({ parts }) => parts.flatMap(({ up, down }) => [up.dtype, down.dtype])))
  return dtypes.size === 1 ? [...dtypes][0]! : 'float32'
}

/** Maximum number of values in a segment without kernels, which bounds the memory: about 40 bytes for each value. */
const VALUES_AT_ONCE = 1 << 23

/** Rows [start, end) of a weight and the parts that update all of them. */
export type Segment = {
  readonly start: number
  readonly end: number
  readonly columns: number
  readonly parts: readonly LowRank[]
  /** Sum of the parts' ranks. */
  readonly rank: number
}

/** Divides a weight's rows into segments of at most `limit` values, with the same parts for all rows. Omits rows without parts. */
export function segmentsOf({ weight, parts }: WeightUpdate, limit = VALUES_AT_ONCE): Segment[] {
  const columns = columnsOf(weight)
  const step = Math.max(1, Math.floor(limit / columns))
  const bounds = [...new Set(parts.flatMap(({ rows }) => rows))].sort((a, b) => a - b)
  const segments: Segment[] = []
  for (const [i, first] of bounds.entries()) {
    const last = bounds[i + 1]
    const here = parts.filter(({ rows }) => rows[0] <= first && first < rows[1])
    if (last === undefined || here.length === 0) continue
    const rank = here.reduce((sum, part) => sum + part.rank, 0)
    for (let start = first; start < last; start += step)
      segments.push({ start, end: Math.min(start + step, last), columns, parts: here, rank })
  }
  return segments
}

/** The scale of each rank of a segment. */
export const rankScales = ({ parts }: Segment): Float32Array =>
  Float32Array.from(parts.flatMap(({ rank, scale }) => new Array<number>(rank).fill(scale)))

/** Seeds of the random phases for the rounding of FP8 weights. */
const [ROW_SEED, COLUMN_SEED] = [0x9e3779b9, 0x85ebca6b]
/** The longest sequences so far, by seed. */
const computed = new Map<number, Float32Array>()

/** The first `count` pseudorandom numbers in [0, 1), equal on every machine. MurmurHash3's finalizer. */
function firstPhases(seed: number, count: number): Float32Array {
  const found = computed.get(seed)
  if (found && found.length >= count) return found.subarray(0, count)
  const phases = new Float32Array(count)
  for (let i = 0; i < count; i++) {
    let hash = Math.imul(i + 1, seed)
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
    phases[i] = ((hash ^ (hash >>> 16)) >>> 8) / 2 ** 24
  }
  computed.set(seed, phases)
  return phases
}

/** The numbers that determine the rounding of a segment of an FP8 weight. */
export const phasesOf = ({ start, end, columns }: Segment) => ({
  rows: firstPhases(ROW_SEED, end).subarray(start, end),
  columns: firstPhases(COLUMN_SEED, columns),
})
