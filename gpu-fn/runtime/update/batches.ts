// Divides updates into batches, and packs the inputs of each batch into one buffer for a single upload.
import { computeTensorBytes, type Dtype } from '../../dtype.ts'
import type { FactorDtype } from '../../manifest.ts'
import {
  factorDtypeOf,
  graphOf,
  type Segment,
  segmentsOf,
  type WeightUpdate,
  type WeightUpdates,
} from './weight-update.ts'

/** Location of a graph input in the buffer of its batch. */
export type Input = {
  readonly start: number
  readonly bytes: number
  readonly dtype: Dtype
  readonly shape: readonly number[]
}
/** Update of a segment. The keys of `inputs` are the input names of its graph. */
export type SegmentUpdate = {
  readonly update: WeightUpdate
  readonly segment: Segment
  readonly graph: string
  readonly inputs: Readonly<Record<'up' | 'down' | 'factors', Input>> & Readonly<Record<string, Input>>
}
/** Updates with factors of type `dtype`. `bytes`: total size of their inputs. */
export type Batch = {
  readonly weights: WeightUpdate[]
  readonly segments: SegmentUpdate[]
  readonly dtype: FactorDtype
  bytes: number
}

/** Maximum bytes of a batch, excluding its last weight. The input buffers are small relative to a step's memory; copying the weights takes 5 ms. */
const LIMITS = { inputs: 8 << 20, weights: 256 << 20 }
/** Alignment of inputs in bytes, as of cudaMalloc. */
const ALIGNMENT = 256

/** Batches of all updates, in file order of the weights. */
export function batchesOf(updates: WeightUpdates, hasKernels: boolean): Batch[] {
  const dtype = factorDtypeOf(updates)
  const batches: Batch[] = []
  let weightBytes = 0
  for (const update of updates.weights.toSorted((a, b) => a.weight.offset - b.weight.offset)) {
    let batch = batches.at(-1)
    if (!batch || batch.bytes >= LIMITS.inputs || weightBytes >= LIMITS.weights) {
      batch = { weights: [], segments: [], dtype, bytes: 0 }
      batches.push(batch)
      weightBytes = 0
    }
    batch.weights.push(update)
    weightBytes += computeTensorBytes(update.weight.dtype, update.weight.shape)
    const graph = graphOf(updates, dtype, update, hasKernels)
    // The kernel needs no workspace.
    const limit = hasKernels && update.weight.dtype === 'float8e4m3fn' ? Number.POSITIVE_INFINITY : undefined
    for (const segment of segmentsOf(update, limit)) {
      const { inputs, end } = layOut(segment, dtype, update.scales !== undefined, batch.bytes)
      batch.segments.push({ update, segment, graph, inputs })
      batch.bytes = end
    }
  }
  return batches
}

function layOut({ start, end, columns, rank }: Segment, dtype: FactorDtype, hasPhases: boolean, from: number) {
  let next = from
  const input = (type: Dtype, shape: readonly number[]): Input => {
    const bytes = computeTensorBytes(type, shape)
    const begin = next
    next = Math.ceil((begin + bytes) / ALIGNMENT) * ALIGNMENT
    return { start: begin, bytes, dtype: type, shape }
  }
  const rows = end - start
  const inputs = {
    up: input(dtype, [rank, rows]),
    down: input(dtype, [rank, columns]),
    factors: input('float32', [rank, 1]),
    ...(hasPhases && { row_phases: input('float32', [rows, 1]), column_phases: input('float32', [1, columns]) }),
  }
  return { inputs, end: next }
}
