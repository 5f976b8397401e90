// Layers for onnxruntime's CPU provider: float32 activations; weights of other types are converted or dequantized before use.
import type { Value } from '../graph/graph.ts'
import {
  type ConvolutionOptions,
  type GroupNormOptions,
  isIntegers,
  isPacked,
  isQuantized,
  type Matrix,
  type QuantizedMatrix,
} from '../graph/layer-types.ts'
import { applyActivation, scaleDim } from '../graph/nn.ts'
import * as ops from '../graph/ops.ts'
import { shapeOfCodes, toCodes, toIntegers } from '../graph/packed.ts'
import type { Lowering, Scope } from '../graph/scope.ts'
import { attendByOperators } from './attention.ts'

function dequantize(weight: Value | QuantizedMatrix): Value {
  if (!isQuantized(weight)) return ops.cast(weight, 'float32')
  const { codes, scales } = weight
  const result = { dtype: 'float32', shape: codes.shape } as const
  return codes.graph.node('DequantizeLinear', [codes, scales], [result], { axis: 0 })[0]!
}

/**
 * Maximum number of values in a 4-bit FP8 matrix that is decoded with rounding to E4M3, as on a GPU. All matrices of nano are below it.
 * Decoding takes 0.14 µs per value when the session is opened. In packages too large for `fold`, every run also converts the E4M3 codes to
 * float32, which takes longer than the integer product.
 */
const MAX_DECODED = 2 ** 21

function addProduct(x: Value, weight: Matrix): Value {
  if (isIntegers(weight)) return ops.matmulIntegers(x, weight)
  if (!isPacked(weight)) return ops.matmulTransposed(x, dequantize(weight))
  const [n, k] = shapeOfCodes(weight)
  return n * k <= MAX_DECODED
    ? ops.matmulTransposed(x, dequantize(toCodes(weight)))
    : ops.matmulIntegers(x, toIntegers(weight, x.dtype))
}

const linear: Lowering['linear'] = (_s, x, weight, bias, activation) => {
  const y = addProduct(x, weight)
  return applyActivation(bias ? ops.add(y, bias) : y, activation)
}

const modulate: Lowering['modulate'] = ({ value, deferred }, modulations, epsilon) => {
  const sum = deferred.reduce((x, branch) => ops.add(x, branch.value), value)
  const normed = modulations.map(({ scale, shift }) => ops.layerNormalization(sum, scale.value, shift.value, epsilon))
  return { stream: { value: sum, deferred: [] }, normed }
}

const conv2d: Lowering['conv2d'] = (s, x, out, bias, { kernel, stride, padding }) => {
  const weight = ops.cast(s.parameter('weight', [out, cpu.channels(x), kernel, kernel]), 'float32')
  const [b, , h, w] = x.shape
  const shape = [b!, out, scaleDim(h!, 1 / stride), scaleDim(w!, 1 / stride)]
  const attributes = createConvolutionAttributes({ kernel, stride, padding })
  return s.graph.node('Conv', bias ? [x, weight, bias] : [x, weight], [{ dtype: 'float32', shape }], attributes)[0]!
}

/** Attributes of ONNX Conv and of onnxruntime's NhwcConv. */
export const createConvolutionAttributes = ({ kernel, stride, padding }: ConvolutionOptions) => ({
  kernel_shape: [kernel, kernel],
  strides: [stride, stride],
  pads: [padding, padding, padding, padding],
})

/** Group normalization of x [B, C, H, W] in standard operators, for providers or sizes without a group norm operator. */
export function groupNormOfPlanes(
  x: Value,
  weight: Value,
  bias: Value,
  { groups, epsilon, silu }: GroupNormOptions,
): Value {
  const grouped = ops.reshape(x, [x.shape[0]!, groups, 'group'])
  const ones = ops.float32(x, new Array(groups).fill(1))
  const zeros = ops.float32(x, new Array(groups).fill(0))
  const result = { dtype: x.dtype, shape: grouped.shape }
  const attributes = { epsilon: { float: epsilon } }
  const normed = x.graph.node('InstanceNormalization', [grouped, ones, zeros], [result], attributes)[0]!
  const channels = x.shape[1] as number
  const reshapeToColumn = (vector: Value) => ops.reshape(vector, [channels, 1, 1])
  const rows = ops.reshapeTo(normed, ops.shapeOf(x, 0, 4), x.shape)
  const y = ops.add(ops.multiply(rows, reshapeToColumn(weight)), reshapeToColumn(bias))
  return silu ? ops.silu(y) : y
}

const groupNorm: Lowering['groupNorm'] = (s, { value: map }, options) => {
  const [weight, bias] = groupNormParameters(s, cpu.channels(map))
  return { map, normed: groupNormOfPlanes(map, weight, bias, options) }
}

export const groupNormParameters = (s: Scope, channels: number): [weight: Value, bias: Value] => [
  s.parameter('weight', [channels]),
  s.parameter('bias', [channels]),
]

/** Nearest-neighbor upsampling by a factor for each axis. */
export function upsampleAxes(x: Value, factors: readonly number[]): Value {
  const shape = x.shape.map((dim, axis) => scaleDim(dim, factors[axis]!))
  const attributes = { mode: 'nearest', coordinate_transformation_mode: 'asymmetric', nearest_mode: 'floor' }
  return x.graph.node('Resize', [x, null, ops.float32(x, factors)], [{ dtype: x.dtype, shape }], attributes)[0]!
}

/** Appends `after` zeros to each axis. The declared shape stays that of `x`. */
export function padAxes(x: Value, after: readonly number[]): Value {
  const pads = ops.int64(x, [...after.map(() => 0), ...after])
  return x.graph.node('Pad', [x, pads], [{ dtype: x.dtype, shape: x.shape }])[0]!
}

export const cpu: Lowering = {
  target: 'cpu',
  activations: 'float32',
  batch: 'B',
  streamUnit: 1,
  rowScales: 'vector',
  linear,
  branch(s, x, weight, bias, gate) {
    const y = linear(s, x, weight, bias)
    return { value: gate ? ops.multiply(y, gate.value) : y }
  },
  modulationVectors(modulation, width) {
    const [batch, total] = modulation.shape
    const rows = ops.reshape(modulation, [batch!, 1, total!])
    return ops.split(rows, new Array(Number(total) / width).fill(width), 2).map((value) => ({ value }))
  },
  modulate,
  attend: attendByOperators,
  headNorm(x, weight, heads, epsilon) {
    const [batch, tokens, width] = x.shape
    const perHead = ops.reshape(x, [batch!, tokens!, heads, Number(width) / heads])
    return ops.reshape(ops.rmsNormalization(perHead, weight, epsilon), x.shape)
  },
  featureMap: (x) => x,
  planes: (x) => x,
  channels: (x) => x.shape[1] as number,
  conv2d,
  defersBiases: false,
  addSkip: (x, { value }) => ({ value: ops.add(x, value) }),
  applyDeferred: ({ value }) => value,
  groupNorm,
  upsampleNearest: (x) => upsampleAxes(x, [1, 1, 2, 2]),
  padEnd: (x) => padAxes(x, [0, 0, 1, 1]),
  tokens(x, length) {
    const flat = ops.reshape(x, [x.shape[0]!, x.shape[1]!, length])
    return ops.transpose(flat, [0, 2, 1])
  },
  fromTokens: (x, like) => ops.reshapeTo(ops.transpose(x, [0, 2, 1]), ops.shapeOf(like, 0, 4), like.shape),
}
