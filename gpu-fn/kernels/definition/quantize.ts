// Quantization by rows in ONNX operators, for the definitions of the kernels.
import type { Value } from '../../compile/graph/graph.ts'
import type { Operand } from '../../compile/graph/layer-types.ts'
import * as ops from '../../compile/graph/ops.ts'

export const FP8_MAX = 448

const unary = (op: string, x: Value) => x.graph.node(op, [x], [{ dtype: x.dtype, shape: x.shape }])[0]!
export const constant = (like: Value, value: number) => ops.float32(like, [value], [])
export const maximum = (a: Value, b: Value) => a.graph.node('Max', [a, b], [{ dtype: a.dtype, shape: a.shape }])[0]!
export const computeLargest = (x: Value, axes: readonly number[]) => {
  const shape = x.shape.map((dim, i) => (axes.includes(i) ? 1 : dim))
  return x.graph.node('ReduceMax', [unary('Abs', x), ops.int64(x, axes)], [{ dtype: x.dtype, shape }], {
    keepdims: 1,
  })[0]!
}

/** E4M3 codes with one scale per row: its largest magnitude ÷ 448. */
export function quantize(x: Value): Operand {
  const scale = ops.divide(maximum(computeLargest(x, [2]), constant(x, 1e-35)), constant(x, FP8_MAX)) // [B, S, 1]
  const codes = ops.cast(ops.divide(x, scale), 'float8e4m3fn')
  return { ...codes, rowScales: ops.reshape(scale, x.shape.slice(0, -1)) }
}
