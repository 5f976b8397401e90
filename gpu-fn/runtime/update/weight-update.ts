// Low-rank updates of stored weights: weight + Σ scale · up transposed · down, computed by onnxruntime on the device of the weights with graphs
// from the adapter's package.
import { countElements } from '../../dtype.ts'
import {
  type FactorDtype,
  type LoraManifest,
  type LoraModule,
  type StoredTensor,
  shapeOfValues,
} from '../../manifest.ts'

/** Matrices of an adapter: up [rank, N] and down [rank, K] in its factor file, with the scale of the request. */
export type LowRank = {
  readonly file: string
  readonly rank: number
  readonly scale: number
  readonly up: LoraModule['up']
  readonly down: LoraModule['down']
  /** Updated rows [start, end) of the stored weight. `firstColumn`: column of `up` for the first of them. */
  readonly rows: readonly [start: number, end: number]
  readonly upWidth: number
  readonly firstColumn: number
  /** Shape [I, H, W] of a row of `down`, if the weight is stored as [O, H, W, I]. */
  readonly channelsFirst?: readonly [number, number, number] | undefined
}
/** A stored weight, its scales (per row in FP8, per block for integers), and its updates. */
export type WeightUpdate = { weight: StoredTensor; scales: StoredTensor | undefined; parts: readonly LowRank[] }
/** The updates of one network. Equal keys stand for equal updates. */
export type WeightUpdates = {
  readonly key: string
  readonly weights: readonly WeightUpdate[]
  /** Paths of the update graphs by type of factors and storage type. */
  readonly graphs: LoraManifest['graphs']
}

/** Path of the update graph of a weight, with our kernels if installed. */
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

/** Common type of all factors; float32 for mixed types. */
export function factorDtypeOf({ weights }: WeightUpdates): FactorDtype {
  const dtypes = new Set(weights.flatMap(({ parts }) => parts.flatMap(({ up, down }) => [up.dtype, down.dtype])))
  return dtypes.size === 1 ? [...dtypes][0]! : 'float32'
}

/** Maximum values per segment without kernels. Bounds the workspace, about 40 bytes per value. */
const VALUES_AT_ONCE = 1 << 23

/** Rows [start, end) of a weight with the same parts. */
export type Segment = {
  readonly start: number
  readonly end: number
  readonly columns: number
  readonly parts: readonly LowRank[]
  /** Sum of the parts' ranks. */
  readonly rank: number
}

/** Divides a weight's rows into segments of at most `limit` values, each with the same parts for all of its rows. Omits rows without parts. */
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

/** Scale per rank of a segment, [R]. */
export const rankScales = ({ parts }: Segment): Float32Array =>
  Float32Array.from(parts.flatMap(({ rank, scale }) => new Array<number>(rank).fill(scale)))

/** Seeds of the random phases for the rounding of FP8 weights. */
const [ROW_SEED, COLUMN_SEED] = [0x9e3779b9, 0x85ebca6b]
/** Cache of the longest sequence by seed. */
const computed = new Map<number, Float32Array>()

/** The first `count` pseudorandom numbers in [0, 1), equal on every machine. MurmurHash3's finalizer. */
function createFirstPhases(seed: number, count: number): Float32Array {
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

/** Dithering phases of a segment of a quantized weight. */
export const phasesOf = ({ start, end, columns }: Segment) => ({
  rows: createFirstPhases(ROW_SEED, end).subarray(start, end),
  columns: createFirstPhases(COLUMN_SEED, columns),
})
