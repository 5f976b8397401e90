// A test case of an FP8 operator: a graph, built once with the kernels and once with their definition, and its float32 inputs.
import { decodeTable, encode } from '../../compile/checkpoint/formats/fp8.ts'
import type { Value } from '../../compile/graph/graph.ts'
import type { Operand } from '../../compile/graph/layer-types.ts'
import * as ops from '../../compile/graph/ops.ts'
import type { Lowering } from '../../compile/graph/scope.ts'
import type { Fp8Operators } from '../../compile/lower/cuda-fp8.ts'
import { drawGaussianNoise } from '../../pipeline/noise.ts'
import type { Tensor } from '../../runtime/session.ts'

export type Narrow = (x: Value) => Value
export type Case = {
  readonly name: string
  readonly inputs: Record<string, Tensor>
  /** Builds the outputs to compare. `half` narrows an input to the operator's type; `layout` lowers its feature maps. */
  readonly build: (
    inputs: Record<string, Value>,
    operators: Fp8Operators,
    half: Narrow,
    layout: Pick<Lowering, 'featureMap' | 'planes'>,
  ) => Record<string, Value>
  /** Maximum relative error, of an output and of its worst row. */
  readonly tolerance: { readonly all: number; readonly row: number }
}

/** Rounding of a code may differ by one step, a sixteenth of its value. */
export const CODES = { all: 5e-3, row: 2e-2 }
/** Hopper accumulates FP8 products in about 13 bits, so errors grow with the length of rows. */
export const HALVES = { all: 3e-3, row: 4e-3 }

/** Computes the values on first access, because the cases have hundreds of millions of them and most importers use none. */
function createLazyTensor(dims: readonly number[], compute: () => Float32Array): Tensor {
  let data: Float32Array | undefined
  return {
    dims,
    get data() {
      data ??= compute()
      return data
    },
  }
}

export const createNoise = (dims: number[], seed: number, scale = 1): Tensor =>
  createLazyTensor(dims, () => {
    const length = dims.reduce((n, dim) => n * dim)
    const data = drawGaussianNoise(seed, length)
    return scale === 1 ? data : data.map((x) => x * scale)
  })
const mapTensor = (tensor: Tensor, map: (x: number) => number): Tensor =>
  createLazyTensor(tensor.dims, () => (tensor.data as Float32Array).map(map))
/** Values that E4M3 represents exactly. */
export const createCodes = (dims: number[], seed: number): Tensor =>
  mapTensor(createNoise(dims, seed, 100), (x) => decodeTable[encode(x)]!)
export const makePositive = (tensor: Tensor): Tensor => mapTensor(tensor, (x) => Math.abs(x) + 0.01)
export const editTensor = (tensor: Tensor, edit: (data: Float32Array) => void): Tensor =>
  createLazyTensor(tensor.dims, () => {
    const copy = (tensor.data as Float32Array).slice()
    edit(copy)
    return copy
  })

const widen = ({ rowScales, ...x }: Operand): Value =>
  ops.multiply(ops.cast(x, 'float32'), ops.reshape(rowScales!, [...rowScales!.shape, 1]))
export const nameOperands = (operands: Operand[]) => Object.fromEntries(operands.map((x, i) => [`part ${i}`, widen(x)]))
