// Divides updates into batches, and lays out the inputs of a batch in one buffer, which is uploaded at once.
import { type Dtype, tensorBytes } from '../../dtype.ts'
import type { FactorDtype } from '../../manifest.ts'
import {
  factorDtypeOf,
  graphOf,
  type Segment,
  segmentsOf,
  type WeightUpdate,
  type WeightUpdates,
} from './weight-update.ts'

/** An input of a graph in the buffer of its batch. */
export type Input = {
  readonly start: number
  readonly bytes: number
  readonly dtype: Dtype
  readonly shape: readonly number[]
}
/** The update of a segment. The inputs have the names of those of its graph. */
export type Work = {
  readonly update: WeightUpdate
  readonly segment: Segment
  readonly graph: string
  readonly inputs: Readonly<Record<'up' | 'down' | 'factors', Input>> & Readonly<Record<string, Input>>
}
/** Updates whose factors have the type `dtype`, and the size of their inputs. */
export type Batch = {
  readonly weights: WeightUpdate[]
  readonly works: Work[]
  readonly dtype: FactorDtype
  bytes: number
}

/** Of a batch without its last weight. The buffers of inputs are small relative to the memory of a step; the weights are copied in 5 ms. */
const LIMITS = { inputs: 8 << 20, weights: 256 << 20 }
/** Addresses of inputs are multiples of those of cudaMalloc. */
const ALIGNMENT = 256

/** The batches of all updates, in the order of the weights in their file. */
export function batchesOf(updates: WeightUpdates, hasKernels: boolean): Batch[] {
  const dtype = factorDtypeOf(updates)
  const batches: Batch[] = []
  let weightBytes = 0
  for (const update of updates.weights.toSorted((a, b) => a.weight.offset - b.weight.offset)) {
    let batch = batches.at(-1)
    if (!batch || batch.bytes >= LIMITS.inputs || weightBytes >= LIMITS.weights) {
      batch = { weights: [], works: [], dtype, bytes: 0 }
      batches.push(batch)
      weightBytes = 0
    }
    batch.weights.push(update)
    weightBytes += tensorBytes(update.weight.dtype, update.weight.shape)
    const graph = graphOf(updates, dtype, update, hasKernels)
    // The kernel takes no memory besides its inputs.
    const limit = hasKernels && update.weight.dtype === 'float8e4m3fn' ? Number.POSITIVE_INFINITY : undefined
    for (const segment of segmentsOf(update, limit)) {
      const { inputs, end } = layOut(segment, dtype, update.scales !== undefined, batch.bytes)
      batch.works.push({ update, segment, graph, inputs })
      batch.bytes = end
    }
  }
  return batches
}

function layOut({ start, end, columns, rank }: Segment, dtype: FactorDtype, hasPhases: boolean, from: number) {
  let next = from
  const input = (type: Dtype, shape: readonly number[]): Input => {
    const bytes = tensorBytes(type, shape)
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
