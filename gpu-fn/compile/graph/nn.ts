// The layers of models. Differences between targets are in a Lowering; models do not depend on the target.
// B batch · S, T tokens · D width · H heads · K input width · N output width
import type { Shape, Value } from './graph.ts'
import type {
  Activation,
  FeatureMap,
  GroupNormOptions,
  JointAttentionOptions,
  LinearOptions,
  Modulation,
  ModulationVector,
  Operand,
  Qkv,
  ResidualBranch,
  Stream,
} from './layer-types.ts'
import * as ops from './ops.ts'
import type { AttentionInput, Scope } from './scope.ts'
import type { Rows } from './weight-source.ts'

const activationsOf = (s: Scope) => s.lowering.activations

/** A parameter of this shape in the network's type of activations. */
export const parameter = (s: Scope, name: string, shape: readonly number[]) =>
  ops.cast(s.parameter(name, shape), activationsOf(s))

export const toActivations = (s: Scope, x: Value) => ops.cast(x, activationsOf(s))

/** Length of the last axis, which is always fixed. */
export const widthOf = (x: Value) => x.shape.at(-1) as number

/** Rows of the module's `weight`, for layers whose output width only the checkpoint determines. */
export const outputWidth = (s: Scope) => s.shape('weight')[0]!

/** x [..., K] → [..., N] with the module's `weight` [N, K] and `bias` [N]. torch `Linear`. */
export function linear(s: Scope, x: Operand, out: number, { activation, bias = true }: LinearOptions = {}): Operand {
  s.enter()
  const [weight] = s.rows('weight', [[0, out]], [out, widthOf(x)])
  return s.lowering.linear(s, x, weight!, bias ? parameter(s, 'bias', [out]) : null, activation)
}

/** linear(x), or gate · linear(x), as a branch of a residual stream. */
export function branch(s: Scope, x: Operand, out: number, gate: ModulationVector | null = null): ResidualBranch {
  s.enter()
  const [weight] = s.rows('weight', [[0, out]], [out, widthOf(x)])
  return s.lowering.branch(s, x, weight!, parameter(s, 'bias', [out]), gate)
}

/** The three projections stacked in `weight` [3D, K], as one product: 1 to 3 % faster on an H200 than three, and as fast on the CPU. */
export function qkvLinear(s: Scope, x: Operand, width: number): Qkv {
  const [q, k, v] = ops.split(linear(s, x, 3 * width), [width, width, width], 2)
  return { q: q!, k: k!, v: v! }
}

/** Keys and values only; the package omits the rows of the queries. */
export function kvLinear(s: Scope, x: Operand, width: number): Pick<Qkv, 'k' | 'v'> {
  const [k, v] = ops.split(projections(s, x, width, [[width, 3 * width]])[0]!, [width, width], 2)
  return { k: k!, v: v! }
}

/** Products with row ranges of `weight` [3D, K]. */
export function projections(s: Scope, x: Operand, width: number, ranges: readonly Rows[]): Value[] {
  s.enter()
  const weights = s.rows('weight', ranges, [3 * width, widthOf(x)])
  const biases = s.rows('bias', ranges, [3 * width]) as Value[]
  return weights.map((weight, i) => s.lowering.linear(s, x, weight, toActivations(s, biases[i]!)))
}

/** Rows of `weight` [V, D] at `ids` → [..., D]. torch `Embedding`. */
export function embedding(s: Scope, ids: Value, vocabulary: number, width: number): Value {
  s.enter()
  return toActivations(s, ops.gather(s.parameter('weight', [vocabulary, width]), ids))
}

/** RMSNorm, computed in the type of x, with a result in the type of activations. */
export function rmsNorm(s: Scope, x: Value, epsilon: number): Value {
  s.enter()
  const weight = ops.cast(s.parameter('weight', [widthOf(x)]), x.dtype)
  return toActivations(s, ops.rmsNormalization(x, weight, epsilon))
}

/** RMSNorm of each attention head of x [B, S, H·d] with the module's weight [d]. */
export function headNorm(s: Scope, x: Value, heads: number, epsilon: number): Value {
  s.enter()
  return s.lowering.headNorm(x, parameter(s, 'weight', [widthOf(x) / heads]), heads, epsilon)
}

export const attention = ({ q, k, v }: Qkv, options: ops.AttentionOptions) => ops.multiHeadAttention(q, k, v, options)

/** Attention over the tokens of one stream or of two together, with RMS-normalized queries and keys; a result [B, S, D] per part with queries. */
export const attend = (parts: readonly [AttentionInput, AttentionInput?], options: JointAttentionOptions): Operand[] =>
  parts[0].s.lowering.attend(parts, options)

/** LayerNorm of a stream in units of 1 with the module's weight and bias, and the stream with its deferred branches applied. */
export function streamNorm(s: Scope, stream: Stream, epsilon: number): { value: Value; normed: Value } {
  s.enter()
  const vector = (name: string) => ({ value: parameter(s, name, [widthOf(stream.value)]) })
  const modulation = { scale: vector('weight'), shift: vector('bias') }
  const { stream: sum, normed } = s.lowering.modulate(stream, [modulation], epsilon, s)
  return { value: sum.value, normed: normed[0]! }
}

export const toStream = (s: Scope, value: Value): Stream => ({
  value: toUnits(value, s.lowering.streamUnit),
  deferred: [],
})

/** In graphs built with `probes`, makes the stream without its deferred branches an output. */
export function probe(s: Scope, { value }: Stream): void {
  if (!s.build.probes) return
  s.graph.output(s.path, toUnits(ops.cast(value, 'float32'), 1 / s.lowering.streamUnit))
}

const toUnits = (value: Value, unit: number) => (unit === 1 ? value : ops.multiply(value, ops.scalar(value, 1 / unit)))

export const addTo = ({ value, deferred }: Stream, branch: ResidualBranch): Stream => ({
  value,
  deferred: [...deferred, branch],
})

/**
 * LayerNorm(stream) · scale + shift for each modulation, and the stream with its deferred branches applied. `reader` is the linear layer
 * of the first result.
 */
export function modulate(s: Scope, stream: Stream, modulations: readonly Modulation[], epsilon: number, reader: Scope) {
  s.enter()
  return s.lowering.modulate(stream, modulations, epsilon / s.lowering.streamUnit ** 2, reader)
}

export const applyActivation = (x: Value, activation: Activation | undefined): Value => {
  if (!activation) return x
  if (activation === 'quick_gelu') return ops.quickGelu(x)
  return ops.gelu(x, activation === 'gelu_tanh' ? 'tanh' : 'none')
}

/** Convolution to `out` channels with the module's weight [O, I, k, k] and bias [O]; 3×3 with unchanged size by default. */
export function conv2d(s: Scope, x: Value, out: number, { kernel = 3, stride = 1, padding = 1 } = {}): Value {
  s.enter()
  return s.lowering.conv2d(s, x, out, s.parameter('bias', [out]), { kernel, stride, padding })
}

/** `conv2d` 3×3 with a deferred bias if the target supports it, for maps that are normalized or added next. */
export function branchConv2d(s: Scope, x: Value, out: number): FeatureMap {
  if (!s.lowering.defersBiases) return { value: conv2d(s, x, out) }
  s.enter()
  const bias = s.parameter('bias', [out])
  return { value: s.lowering.conv2d(s, x, out, null, { kernel: 3, stride: 1, padding: 1 }), deferred: { bias } }
}

/** torch `GroupNorm` with the module's weight and bias, optionally followed by SiLU. */
export const groupNorm = (s: Scope, x: FeatureMap, options: GroupNormOptions): Value =>
  s.enter().lowering.groupNorm(s, x, { ...options, keep: false }).normed

/** `groupNorm`, and the map with its deferred terms applied. */
export const applyDeferredAndNorm = (
  s: Scope,
  x: FeatureMap,
  options: GroupNormOptions,
): { map: Value; normed: Value } => s.enter().lowering.groupNorm(s, x, { ...options, keep: true })

/** Multiplies a dimension by a factor. For a dynamic axis, returns the name of the scaled axis, such as `tokens*2`. */
export function scaleDim(dim: Shape[number], factor: number): Shape[number] {
  if (typeof dim === 'number') return dim * factor
  if (factor === 1) return dim
  return factor > 1 ? `${dim}*${factor}` : `${dim}/${Math.round(1 / factor)}`
}
