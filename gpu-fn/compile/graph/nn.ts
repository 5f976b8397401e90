// The layers that models are written in. What differs between targets is a Lowering; models never ask which one they are built for.
// B batch · S, T tokens · D width · H heads · K input width · N output width
import type { Shape, Value } from './graph.ts'
import type {
  Activation,
  AttendOptions,
  Branch,
  FeatureMap,
  GroupNormOptions,
  LinearOptions,
  Modulation,
  ModulationVector,
  Operand,
  Qkv,
  Stream,
} from './layer-types.ts'
import * as ops from './ops.ts'
import type { Attending, Scope } from './scope.ts'
import type { Rows } from './weight-source.ts'

const activationsOf = (s: Scope) => s.lowering.activations

/** A parameter of this shape in the network's type of activations. */
export const parameter = (s: Scope, name: string, shape: readonly number[]) =>
  ops.cast(s.parameter(name, shape), activationsOf(s))

export const toActivations = (s: Scope, x: Value) => ops.cast(x, activationsOf(s))

/** Length of the last axis, which is never free. */
export const widthOf = (x: Value) => x.shape.at(-1) as number

/** Rows of the module's `weight`: the width of a layer that the rest of the network does not fix. */
export const outputWidth = (s: Scope) => s.shape('weight')[0]!

/** x [..., K] → [..., N] with the module's `weight` [N, K] and `bias` [N]. torch `Linear`. */
export function linear(s: Scope, x: Operand, out: number, { activation, bias = true }: LinearOptions = {}): Operand {
  s.enter()
  const [weight] = s.rows('weight', [[0, out]], [out, widthOf(x)])
  return s.lowering.linear(s, x, weight!, bias ? parameter(s, 'bias', [out]) : null, activation)
}

/** linear(x), or gate · linear(x), to be added to a stream. */
export function branch(s: Scope, x: Operand, out: number, gate: ModulationVector | null = null): Branch {
  s.enter()
  const [weight] = s.rows('weight', [[0, out]], [out, widthOf(x)])
  return s.lowering.branch(s, x, weight!, parameter(s, 'bias', [out]), gate)
}

/** The three projections stacked in `weight` [3D, K]: one product and a split, or three products (`fuseQkv`). */
export function qkvLinear(s: Scope, x: Operand, width: number): Qkv {
  if (s.build.fuseQkv) {
    const [q, k, v] = ops.split(linear(s, x, 3 * width), [width, width, width], 2)
    return { q: q!, k: k!, v: v! }
  }
  const [q, k, v] = projections(s, x, width, thirds(width))
  return { q: q!, k: k!, v: v! }
}

/** Keys and values only; the queries' rows are left out of the package. */
export function kvLinear(s: Scope, x: Operand, width: number): Pick<Qkv, 'k' | 'v'> {
  const ranges = thirds(width).slice(1)
  const [k, v] = s.build.fuseQkv
    ? ops.split(projections(s, x, width, [[width, 3 * width]])[0]!, [width, width], 2)
    : projections(s, x, width, ranges)
  return { k: k!, v: v! }
}

const thirds = (width: number): Rows[] => [0, 1, 2].map((i) => [i * width, (i + 1) * width])

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

/** T5's norm: no mean, no bias. Computed in x's type (T5 keeps its residual in float32) and handed on in the activations' type. */
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

/**
 * Attention over the tokens of one stream, or of two together, with RMS-normalised queries and keys; a result [B, S, D] for each part that
 * has queries.
 */
export const attend = (parts: readonly [Attending, Attending?], options: AttendOptions): Operand[] =>
  parts[0].s.lowering.attend(parts, options)

/** LayerNorm of a stream that is in its own unit, with the module's weight and bias, and the stream with what was pending added. */
export function streamNorm(s: Scope, stream: Stream, epsilon: number): { value: Value; normed: Value } {
  s.enter()
  const vector = (name: string) => ({ value: parameter(s, name, [widthOf(stream.value)]) })
  const modulation = { scale: vector('weight'), shift: vector('bias') }
  const { stream: sum, normed } = s.lowering.modulate(stream, [modulation], epsilon, s)
  return { value: sum.value, normed: normed[0]! }
}

export const toStream = (s: Scope, value: Value): Stream => ({
  value: inUnits(value, s.lowering.streamUnit),
  pending: [],
})

/** Makes the stream, without what is pending, a result of a graph that was built with `probes`. */
export function probe(s: Scope, { value }: Stream): void {
  if (!s.build.probes) return
  s.graph.output(s.path, inUnits(ops.cast(value, 'float32'), 1 / s.lowering.streamUnit))
}

const inUnits = (value: Value, unit: number) => (unit === 1 ? value : ops.multiply(value, ops.scalar(value, 1 / unit)))

export const addTo = ({ value, pending }: Stream, branch: Branch): Stream => ({ value, pending: [...pending, branch] })

/**
 * LayerNorm(stream) · scale + shift for each modulation, and the stream with what was pending added. `reader` is the linear layer that
 * reads the first result.
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

/** Convolution to `out` channels with the module's weight [O, I, k, k] and bias [O]; 3×3 that keeps the size unless told otherwise. */
export function conv2d(s: Scope, x: Value, out: number, { kernel = 3, stride = 1, padding = 1 } = {}): Value {
  s.enter()
  return s.lowering.conv2d(s, x, out, s.parameter('bias', [out]), { kernel, stride, padding })
}

/** `conv2d` 3×3 whose bias may be pending: for maps that are normalised or added next. */
export function branchConv2d(s: Scope, x: Value, out: number): FeatureMap {
  if (!s.lowering.pendingBiases) return { value: conv2d(s, x, out) }
  s.enter()
  const bias = s.parameter('bias', [out])
  return { value: s.lowering.conv2d(s, x, out, null, { kernel: 3, stride: 1, padding: 1 }), pending: { bias } }
}

/** torch `GroupNorm` with the module's weight and bias, then SiLU where asked. */
export const groupNorm = (s: Scope, x: FeatureMap, options: GroupNormOptions): Value =>
  s.enter().lowering.groupNorm(s, x, { ...options, keep: false }).normed

/** `groupNorm`, and the map itself with nothing pending any more. */
export const settleAndNorm = (s: Scope, x: FeatureMap, options: GroupNormOptions): { map: Value; normed: Value } =>
  s.enter().lowering.groupNorm(s, x, { ...options, keep: true })

/** A length times a factor: numbers multiply, free axes get a name. */
export function scaleDim(dim: Shape[number], factor: number): Shape[number] {
  if (typeof dim === 'number') return dim * factor
  if (factor === 1) return dim
  return factor > 1 ? `${dim}*${factor}` : `${dim}/${Math.round(1 / factor)}`
}
