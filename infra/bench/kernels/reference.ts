// What the operators of gpu-fn/kernels compute, in ONNX operators and float32: the definition that the kernels are tested against. With
// `reference` as its layers a model runs on the CPU with the very roundings to FP8 that it has on FP8 tensor cores.
import type { Value } from '../../../gpu-fn/compile/graph/graph.ts'
import type { FeatureMap, Operand } from '../../../gpu-fn/compile/graph/layer-types.ts'
import * as ops from '../../../gpu-fn/compile/graph/ops.ts'
import { cpu, groupNormOfPlanes } from '../../../gpu-fn/compile/lower/cpu.ts'
import { type Fp8Operators, fp8Lowering, type Projected } from '../../../gpu-fn/compile/lower/cuda-fp8.ts'

const FP8_MAX = 448
/** The largest element of a normalised head of 64 values, but for its weight. */
const MOST_NORMALISED = 8
const DEPTH = 64

const unary = (op: string, x: Value) => x.graph.node(op, [x], [{ dtype: x.dtype, shape: x.shape }])[0]!
const constant = (like: Value, value: number) => ops.float32(like, [value], [])
const maximum = (a: Value, b: Value) => a.graph.node('Max', [a, b], [{ dtype: a.dtype, shape: a.shape }])[0]!
const largest = (x: Value, axes: readonly number[]) => {
  const shape = x.shape.map((dim, i) => (axes.includes(i) ? 1 : dim))
  return x.graph.node('ReduceMax', [unary('Abs', x), ops.int64(x, axes)], [{ dtype: x.dtype, shape }], {
    keepdims: 1,
  })[0]!
}

/** E4M3 codes with one scale a row: its largest magnitude ÷ 448. */
function quantise(x: Value): Operand {
  const scale = ops.divide(maximum(largest(x, [2]), constant(x, 1e-35)), constant(x, FP8_MAX)) // [B, S, 1]
  const codes = ops.cast(ops.divide(x, scale), 'float8e4m3fn')
  return { ...codes, rowScales: ops.reshape(scale, x.shape.slice(0, -1)) }
}

const columnOf = (scales: Value) => ops.reshape(scales, [...scales.shape, 1])

function normalised(x: Value, weight: Value, factor: Value, epsilon: number): Value {
  const [batch, tokens, width] = x.shape
  const heads = ops.reshape(x, [batch!, tokens!, Number(width) / DEPTH, DEPTH])
  const codes = ops.cast(ops.multiply(ops.rmsNormalization(heads, weight, epsilon), factor), 'float8e4m3fn')
  return ops.reshape(ops.divide(ops.cast(codes, 'float32'), factor), x.shape)
}

/** What takes normalised queries or keys of both streams to codes. */
function codeFactor(norms: readonly (Value | null)[]): Value {
  const [first, ...others] = norms.filter((norm) => norm !== null).map((norm) => largest(norm, [0]))
  const most = others.reduce(maximum, first!)
  return ops.divide(constant(most, FP8_MAX / MOST_NORMALISED), most)
}

function parts({ qkv, queryNorm, keyNorm }: Projected, queryFactor: Value, keyFactor: Value, epsilon: number) {
  const count = queryNorm ? 3 : 2
  const width = Number(qkv.shape[2]) / count
  const split = ops.split(qkv, new Array(count).fill(width), 2)
  const [k, v] = split.slice(-2) as [Value, Value]
  const q = queryNorm && normalised(split[0]!, queryNorm, queryFactor, epsilon)
  return { q, k: normalised(k, keyNorm, keyFactor, epsilon), v }
}

function settled({ value, pending }: FeatureMap): Value {
  if (!pending) return value
  const biased = ops.add(value, ops.reshape(pending.bias, [value.shape[1]!, 1, 1]))
  return pending.skip ? ops.add(pending.skip, biased) : biased
}

/** Feature maps are [B, C, H, W] here, and [B, H, W, C] in the kernels. */
export const operators: Fp8Operators = {
  modulateQuantise(stream, branches, modulation, modulations, { factor, epsilon }) {
    const width = Number(stream.shape[2])
    const vector = (at: number) => {
      const [start, end] = [at, at + width].map((value) => ops.int64(modulation, [value])) as [Value, Value]
      return ops.reshape(ops.slice(modulation, start, end, 1, width), [modulation.shape[0]!, 1, width])
    }
    const gated = ({ value, gate }: (typeof branches)[number]) =>
      ops.multiply(ops.multiply(value, vector(gate)), constant(value, factor))
    const sum = branches.reduce((x, branch) => ops.add(x, gated(branch)), stream)
    const normed = modulations.map(({ shift, scale }) =>
      quantise(ops.layerNormalization(sum, vector(scale), vector(shift), epsilon)),
    )
    return { sum, normed }
  },
  linear(x, { codes, scales }, bias, factor) {
    const product = ops.matmulTransposed(ops.cast(x, 'float32'), ops.cast(codes, 'float32'))
    const scaled = ops.multiply(ops.multiply(product, columnOf(x.rowScales!)), ops.reshape(scales, [codes.shape[0]!]))
    return ops.add(ops.multiply(scaled, constant(scaled, factor)), bias)
  },
  geluQuantise: (x, factor) => quantise(ops.gelu(ops.multiply(x, constant(x, factor)), 'tanh')),
  attend(image, text, epsilon) {
    const queryFactor = codeFactor([image.queryNorm, text?.queryNorm ?? null])
    const keyFactor = codeFactor([image.keyNorm, text?.keyNorm ?? null])
    const own = parts(image, queryFactor, keyFactor, epsilon)
    const other = text && parts(text, queryFactor, keyFactor, epsilon)
    const join = (a: Value, b: Value | null | undefined) => (b ? ops.concat([a, b], 1) : a)
    const heads = Number(own.k.shape[2]) / DEPTH
    return ops.multiHeadAttention(join(own.q!, other?.q), join(own.k, other?.k), join(own.v, other?.v), { heads })
  },
  quantiseParts(joint, like, rest) {
    const length = ops.shapeOf(like, 1, 2)
    const [zero, far] = [0, Number.MAX_SAFE_INTEGER].map((at) => ops.int64(joint, [at])) as [Value, Value]
    const first = quantise(ops.slice(joint, zero, length, 1, like.shape[1]!))
    return rest ? [first, quantise(ops.slice(joint, length, far, 1, rest.shape[1]!))] : [first]
  },
  settled,
  groupNorm(map, weight, bias, options) {
    const sum = settled(map)
    return { map: sum, normed: groupNormOfPlanes(sum, weight, bias, options) }
  },
}

export const reference = fp8Lowering(operators, cpu)
