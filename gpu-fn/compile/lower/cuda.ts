// Layers for onnxruntime's CUDA provider: FP8 weights (MatMulBlockQuantizedFp8Weight), 16-bit activations, NHWC convolutions.
// The step graph takes one sample, so that a modulation is a vector: residual, LayerNorm and modulation are fused into one
// SkipLayerNormalization, and a gate is multiplied with the weight's scales instead of the activations. Layers that the two providers share
// are those of cpu.ts.
import type { Value } from '../graph/graph.ts'
import {
  type Activation,
  isIntegers,
  isPacked,
  isQuantized,
  type Matrix,
  type ResidualBranch,
} from '../graph/layer-types.ts'
import { applyActivation, scaleDim } from '../graph/nn.ts'
import * as ops from '../graph/ops.ts'
import { toIntegers } from '../graph/packed.ts'
import type { Lowering } from '../graph/scope.ts'
import {
  cpu,
  createConvolutionAttributes,
  groupNormOfPlanes,
  groupNormParameters,
  padAxes,
  upsampleAxes,
} from './cpu.ts'

const CONTRIB = 'com.microsoft'

function product(x: Value, weight: Matrix): Value {
  if (isPacked(weight)) return ops.matmulIntegers(x, toIntegers(weight, x.dtype))
  if (isIntegers(weight)) return ops.matmulIntegers(x, weight)
  if (!isQuantized(weight)) return ops.matmulTransposed(x, ops.cast(weight, x.dtype))
  const [n] = weight.codes.shape
  const shape = x.shape.with(-1, n!)
  const inputs = [x, weight.codes, weight.scales]
  return x.graph.node(
    'MatMulBlockQuantizedFp8Weight',
    inputs,
    [{ dtype: x.dtype, shape }],
    { block_size: weight.codes.shape[1]! as number },
    CONTRIB,
  )[0]!
}

/** Operators that fuse a bias with an activation. */
const FUSED: Partial<Record<Activation, string>> = { gelu: 'BiasGelu', gelu_tanh: 'FastGelu' }

const linear: Lowering['linear'] = (_s, x, weight, bias, activation) => {
  const y = product(x, weight)
  const fused = activation && FUSED[activation]
  if (bias && fused) return x.graph.node(fused, [y, bias], [{ dtype: y.dtype, shape: y.shape }], {}, CONTRIB)[0]!
  // An Add is faster than the operator's bias, which processes one element per thread.
  return applyActivation(bias ? ops.add(y, bias) : y, activation)
}

const branch: Lowering['branch'] = (_s, x, weight, bias, gate) => {
  if (!gate) return { value: product(x, weight), bias }
  const gatedBias = ops.multiply(bias, gate.value)
  if (!isQuantized(weight)) return { value: ops.multiply(product(x, weight), gate.value), bias: gatedBias }
  return { value: product(x, { ...weight, scales: ops.multiply(weight.scales, gate.column!) }), bias: gatedBias }
}

const sum = (x: Value, { value, bias }: ResidualBranch) => ops.add(x, bias ? ops.add(value, bias) : value)

const modulate: Lowering['modulate'] = ({ value, deferred }, modulations, epsilon) => {
  const last = deferred.at(-1)
  let x = deferred.slice(0, -1).reduce(sum, value)
  const [first, ...others] = modulations
  const normed: Value[] = []
  if (last) {
    const inputs = [x, last.value, first!.scale.value, first!.shift.value, last.bias ?? null]
    const like = { dtype: x.dtype, shape: x.shape }
    const outputs = x.graph.node(
      'SkipLayerNormalization',
      inputs,
      [like, null, null, like],
      { epsilon: { float: epsilon } },
      CONTRIB,
    )
    normed.push(outputs[0]!)
    x = outputs[3]!
  } else normed.push(ops.layerNormalization(x, first!.scale.value, first!.shift.value, epsilon))
  for (const { scale, shift } of others) normed.push(ops.layerNormalization(x, scale.value, shift.value, epsilon))
  return { stream: { value: x, deferred: [] }, normed }
}

const conv2d: Lowering['conv2d'] = (s, x, out, bias, { kernel, stride, padding }) => {
  const weight = s.parameter('weight', [out, cuda.channels(x), kernel, kernel], { channelsLast: true })
  const [b, h, w] = x.shape
  const result = { dtype: x.dtype, shape: [b!, scaleDim(h!, 1 / stride), scaleDim(w!, 1 / stride), out] }
  // onnxruntime dereferences a bias given as an empty name, so it is omitted.
  const inputs = [x, ops.cast(weight, x.dtype), ...(bias ? [ops.cast(bias, x.dtype)] : [])]
  return s.graph.node(
    'NhwcConv',
    inputs,
    [result],
    createConvolutionAttributes({ kernel, stride, padding }),
    CONTRIB,
  )[0]!
}

const groupNorm: Lowering['groupNorm'] = (s, { value: map }, options) => {
  const { groups, epsilon, silu } = options
  const { dtype, shape } = map
  const [weight, bias] = groupNormParameters(s, cuda.channels(map))
  // The operator processes pairs of channels. SD3.5's autoencoder has 4 or more channels per group.
  if ((cuda.channels(map) / groups) % 2 !== 0) {
    const normed = groupNormOfPlanes(ops.cast(cuda.planes(map), 'float32'), weight, bias, options)
    return { map, normed: cuda.featureMap(ops.cast(normed, dtype)) }
  }
  const attributes = { groups, epsilon: { float: epsilon }, activation: silu ? 1 : 0, channels_last: 1 }
  const [normed] = s.graph.node('GroupNorm', [map, weight, bias], [{ dtype, shape }], attributes, CONTRIB)
  return { map, normed: normed! }
}

export const cuda: Lowering = {
  ...cpu,
  target: 'cuda',
  activations: 'float16',
  batch: 1,
  streamUnit: 16,
  rowScales: 'column',
  linear,
  branch,
  modulationVectors(modulation, width) {
    const total = modulation.shape[1] as number
    const lengths = new Array<number>(total / width).fill(width)
    const values = ops.split(ops.cast(ops.reshape(modulation, [total]), 'float16'), lengths, 0)
    const columns = ops.split(ops.reshape(modulation, [total, 1]), lengths, 0)
    return values.map((value, i) => ({ value, column: columns[i]! }))
  },
  modulate,
  headNorm(x, weight, heads, epsilon) {
    // SimplifiedLayerNormalization is optimized for wide rows; x + x with 4 epsilon is the same function in a faster kernel.
    const [batch, , width] = x.shape
    const depth = Number(width) / heads
    const rows = ops.reshape(x, [batch!, 'rows', depth])
    const like = { dtype: x.dtype, shape: rows.shape }
    const attributes = { epsilon: { float: epsilon * 4 } }
    const normed = x.graph.node(
      'SkipSimplifiedLayerNormalization',
      [rows, rows, weight],
      [like],
      attributes,
      CONTRIB,
    )[0]!
    return ops.reshape(normed, x.shape)
  },
  featureMap: (x) => ops.transpose(x, [0, 2, 3, 1]),
  planes: (x) => ops.transpose(x, [0, 3, 1, 2]),
  channels: (x) => x.shape[3] as number,
  conv2d,
  groupNorm,
  upsampleNearest: (x) => upsampleAxes(x, [1, 2, 2, 1]),
  padEnd: (x) => padAxes(x, [0, 1, 1, 0]),
  tokens: (x, length) => ops.reshape(x, [x.shape[0]!, length, x.shape[3]!]),
  fromTokens: (x, like) => ops.reshapeTo(x, ops.shapeOf(like, 0, 4), like.shape),
}
