// ONNX operators as functions. Each infers the shape of its result and throws a GraphError for incompatible shapes.
import { type Dtype, ONNX_DATA_TYPES } from '../../dtype.ts'
import { type Dim, GraphError, type Shape, type Value } from './graph.ts'
import type { IntegerBlocks } from './layer-types.ts'

/** Value of the attribute `accuracy_level` of MatMulNBits for float32 activations on the CPU. */
const FLOAT32_LEVEL = 1

const show = (shape: Shape) => `[${shape.join(', ')}]`

function addSingleOutputNode(
  op: string,
  inputs: (Value | null)[],
  dtype: Dtype,
  shape: Shape,
  attributes = {},
  domain = '',
): Value {
  const graph = inputs.find((input) => input)!.graph
  return graph.node(op, inputs, [{ dtype, shape }], attributes, domain)[0]!
}

export function int64(like: Value, values: readonly number[]): Value {
  return like.graph.constant('int64', [values.length], new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer))
}

export function float32(like: Value, values: readonly number[], shape: readonly number[] = [values.length]): Value {
  return like.graph.constant('float32', shape, new Uint8Array(Float32Array.from(values).buffer))
}

/** A scalar of the value's own type, so that it broadcasts without a change of type. */
export function scalar(like: Value, value: number): Value {
  return cast(float32(like, [value], []), like.dtype)
}

export function cast(x: Value, dtype: Dtype): Value {
  return x.dtype === dtype ? x : addSingleOutputNode('Cast', [x], dtype, x.shape, { to: ONNX_DATA_TYPES[dtype] })
}

/** Numpy broadcasting of two shapes; a dynamic axis is compatible with itself and with 1. */
function broadcast(a: Shape, b: Shape, what: string): Dim[] {
  const rank = Math.max(a.length, b.length)
  return Array.from({ length: rank }, (_, i) => {
    const p = a[a.length - rank + i] ?? 1
    const q = b[b.length - rank + i] ?? 1
    if (p !== q && p !== 1 && q !== 1) throw new GraphError(`${what}: ${show(a)} does not broadcast with ${show(b)}`)
    return p === 1 ? q : p
  })
}

function binary(op: string, a: Value, b: Value, dtype = a.dtype): Value {
  if (a.dtype !== b.dtype) throw new GraphError(`${a.graph.path} ${op}: ${a.dtype} with ${b.dtype}`)
  return addSingleOutputNode(op, [a, b], dtype, broadcast(a.shape, b.shape, `${a.graph.path} ${op}`))
}
export const add = (a: Value, b: Value) => binary('Add', a, b)
export const subtract = (a: Value, b: Value) => binary('Sub', a, b)
export const multiply = (a: Value, b: Value) => binary('Mul', a, b)
export const divide = (a: Value, b: Value) => binary('Div', a, b)
export const equal = (a: Value, b: Value) => binary('Equal', a, b, 'bool')

const unary = (op: string, x: Value, attributes = {}, domain = '') =>
  addSingleOutputNode(op, [x], x.dtype, x.shape, attributes, domain)
export const floor = (x: Value) => unary('Floor', x)
/** Rounds to the nearest integer, halves to even. */
export const round = (x: Value) => unary('Round', x)
export const clip = (x: Value, min: number, max: number) =>
  addSingleOutputNode('Clip', [x, scalar(x, min), scalar(x, max)], x.dtype, x.shape)
/** Sum over all axes, a scalar. */
export const sum = (x: Value) => addSingleOutputNode('ReduceSum', [x], x.dtype, [], { keepdims: 0 })
export const exp = (x: Value) => unary('Exp', x)
export const sin = (x: Value) => unary('Sin', x)
export const cos = (x: Value) => unary('Cos', x)
export const silu = (x: Value) => multiply(x, unary('Sigmoid', x))
export const gelu = (x: Value, approximate: 'none' | 'tanh') => unary('Gelu', x, { approximate })
/** x · sigmoid(1.702 x). */
export const quickGelu = (x: Value) => unary('QuickGelu', x, { alpha: { float: 1.702 } }, 'com.microsoft')

/** Reshapes to `shape`; at most one dynamic axis may move or be new, and its length is inferred. */
export function reshape(x: Value, shape: Shape): Value {
  let inferred = 0
  const spec = shape.map((dim, i) => {
    if (typeof dim === 'number') return dim
    if (x.shape[i] === dim) return 0
    inferred++
    return -1
  })
  if (inferred > 1) throw new GraphError(`${x.graph.path} reshape: ${show(x.shape)} to ${show(shape)} needs reshapeTo`)
  if ([...x.shape, ...shape].every((dim) => typeof dim === 'number')) {
    const count = (dims: Shape) => dims.reduce<number>((n, dim) => n * Number(dim), 1)
    if (count(x.shape) !== count(shape))
      throw new GraphError(`${x.graph.path} reshape: ${show(x.shape)} to ${show(shape)}`)
  }
  return addSingleOutputNode('Reshape', [x, int64(x, spec)], x.dtype, shape)
}

/** Reshapes to run-time `lengths` (int64); `shape` names them. */
export const reshapeTo = (x: Value, lengths: Value, shape: Shape) =>
  addSingleOutputNode('Reshape', [x, lengths], x.dtype, shape)

export const transpose = (x: Value, perm: readonly number[]) =>
  addSingleOutputNode(
    'Transpose',
    [x],
    x.dtype,
    perm.map((axis) => x.shape[axis]!),
    { perm },
  )

export const expand = (x: Value, lengths: Value, shape: Shape) =>
  addSingleOutputNode('Expand', [x, lengths], x.dtype, shape)

/** Lengths of axes [start, end) as int64. */
export const shapeOf = (x: Value, start: number, end: number) =>
  addSingleOutputNode('Shape', [x], 'int64', [end - start], { start, end })

export function concat(values: readonly Value[], axis: number, length?: Dim): Value {
  const [first] = values
  const lengths = values.map((value) => value.shape[axis]!)
  const sum = lengths.every((dim) => typeof dim === 'number')
    ? lengths.reduce<number>((n, dim) => n + Number(dim), 0)
    : lengths.join('+')
  return addSingleOutputNode('Concat', [...values], first!.dtype, first!.shape.with(axis, length ?? sum), { axis })
}

/** Splits an axis into pieces of the given lengths. */
export function split(x: Value, lengths: readonly number[], axis: number): Value[] {
  const total = lengths.reduce((n, length) => n + length, 0)
  if (x.shape[axis] !== total)
    throw new GraphError(`${x.graph.path} split: axis ${axis} of ${show(x.shape)} into ${total}`)
  const results = lengths.map((length) => ({ dtype: x.dtype, shape: x.shape.with(axis, length) }))
  return x.graph.node('Split', [x, int64(x, lengths)], results, { axis })
}

/** Rows [start, end) of one axis, with run-time bounds. */
export const slice = (x: Value, start: Value, end: Value, axis: number, length: Dim) =>
  addSingleOutputNode('Slice', [x, start, end, int64(x, [axis])], x.dtype, x.shape.with(axis, length))

export const gather = (x: Value, indices: Value, axis = 0) =>
  addSingleOutputNode(
    'Gather',
    [x, indices],
    x.dtype,
    [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)],
    {
      axis,
    },
  )

/** Selects one row of each sample: x [B, S, D] at `index` [B, 1] → [B, D]. */
export const gatherRow = (x: Value, index: Value) =>
  addSingleOutputNode('GatherND', [x, index], x.dtype, [x.shape[0]!, x.shape[2]!], { batch_dims: 1 })

export const argMax = (x: Value, axis: number) =>
  addSingleOutputNode('ArgMax', [x], 'int64', x.shape.with(axis, 1), { axis, keepdims: 1 })

/** 0, 1, … n - 1 for a run-time scalar n. */
export function range(n: Value, length: Dim): Value {
  const zero = n.graph.constant('int64', [], new Uint8Array(8))
  const step = n.graph.constant('int64', [], new Uint8Array(BigInt64Array.of(1n).buffer))
  return addSingleOutputNode('Range', [zero, reshape(n, []), step], 'int64', [length])
}

export const layerNormalization = (x: Value, scale: Value, bias: Value, epsilon: number) =>
  addSingleOutputNode('LayerNormalization', [x, scale, bias], x.dtype, x.shape, {
    axis: -1,
    epsilon: { float: epsilon },
  })

/** RMSNorm over the last axis (ONNX RMSNormalization, opset 23), variance in float32. */
export const rmsNormalization = (x: Value, scale: Value, epsilon: number) =>
  addSingleOutputNode('RMSNormalization', [x, scale], x.dtype, x.shape, { axis: -1, epsilon: { float: epsilon } })

/** x [..., K] · weight [N, K] transposed → [..., N]. */
export function matmulTransposed(x: Value, weight: Value): Value {
  const [n, k] = weight.shape
  const width = x.shape.at(-1)
  if (width !== k) throw new GraphError(`linear ${x.graph.path}: input width ${width} ≠ weight ${k}`)
  return addSingleOutputNode('FusedMatMul', [x, weight], x.dtype, x.shape.with(-1, n!), { transB: 1 }, 'com.microsoft')
}

/**
 * x [..., K] · weight [N, K] transposed → [..., N], in the precision of x. Contrib operator of onnxruntime, which dequantizes the weight.
 */
export function matmulIntegers(x: Value, { blocks, scales, bits, block }: IntegerBlocks): Value {
  const [n, count] = blocks.shape as [number, number]
  const k = count * block
  const width = x.shape.at(-1)
  if (width !== k) throw new GraphError(`linear ${x.graph.path}: input width ${width} ≠ weight ${k}`)
  const attributes = { N: n, K: k, bits, block_size: block, accuracy_level: FLOAT32_LEVEL }
  return addSingleOutputNode(
    'MatMulNBits',
    [x, blocks, scales],
    x.dtype,
    x.shape.with(-1, n),
    attributes,
    'com.microsoft',
  )
}

/** `bias` [1, heads, S, T] is added to the scores, `qkvBias` [3D] to q, k and v. */
export type AttentionOptions = { heads: number; scale?: number; causal?: boolean; bias?: Value; qkvBias?: Value }

/** Multi-head attention on q [B, S, D], k and v [B, T, D] → [B, S, D]. onnxruntime's contrib operator. */
export function multiHeadAttention(
  q: Value,
  k: Value,
  v: Value,
  { heads, scale, causal, bias, qkvBias }: AttentionOptions,
): Value {
  const width = q.shape.at(-1) as number
  if (width % heads !== 0 || k.shape.at(-1) !== width || String(k.shape) !== String(v.shape)) {
    throw new GraphError(
      `${q.graph.path} attention of ${heads} heads: ${[q, k, v].map(({ shape }) => show(shape)).join(', ')}`,
    )
  }
  const attributes = {
    num_heads: heads,
    ...(causal && { unidirectional: 1 }),
    ...(scale && { scale: { float: scale } }),
  }
  const inputs = bias ? [q, k, v, qkvBias ?? null, null, bias] : qkvBias ? [q, k, v, qkvBias] : [q, k, v]
  return addSingleOutputNode('MultiHeadAttention', inputs, q.dtype, q.shape, attributes, 'com.microsoft')
}

/** [B, p·p·C, h, w] → [B, C, h·p, w·p], the patch's row and column before its channels (ONNX mode DCR). */
export const depthToSpace = (x: Value, blocksize: number, shape: Shape) =>
  addSingleOutputNode('DepthToSpace', [x], x.dtype, shape, { blocksize, mode: 'DCR' })
