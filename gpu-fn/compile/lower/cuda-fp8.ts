// Layers for FP8 tensor cores through the operators of kernels/. The step graph's matrix products take FP8 codes on both sides, with one
// operator between two products; one operator adds and normalizes feature maps. All other layers are those of cuda.ts.
import { GraphError, type Value } from '../graph/graph.ts'
import {
  type FeatureMap,
  isPacked,
  isQuantized,
  type Matrix,
  type ModulationVector,
  type Operand,
  type PackedWeight,
  type QuantizedMatrix,
} from '../graph/layer-types.ts'
import type { AddLowRank } from '../graph/lora-graphs.ts'
import { projections } from '../graph/nn.ts'
import * as ops from '../graph/ops.ts'
import type { AttentionInput, Lowering, Scope } from '../graph/scope.ts'
import { attendByOperators } from './attention.ts'
import { groupNormParameters } from './cpu.ts'

/** Offsets of a modulation's shift and scale in the vector [B, M]. */
type Offsets = { readonly shift: number; readonly scale: number }
/** A residual branch, and its gate's offset in the vector [B, M]. */
type GatedBranch = { readonly value: Value; readonly gate: number }
/** A stream's projections: [B, S, 3D], or [B, S, 2D] without queries, and the norms of its heads, in float32. */
export type Projections = { readonly qkv: Value; readonly queryNorm: Value | null; readonly keyNorm: Value }

/** The operators of kernels/include/operators.h. kernels/reference.ts computes the same in ONNX operators. */
export type Fp8Operators = {
  /** sum = stream + Σ factor · gate · branch, and for each modulation LayerNorm(sum) · scale + shift, quantized by rows. */
  modulateQuantize(
    stream: Value,
    branches: readonly GatedBranch[],
    modulation: Value,
    modulations: readonly Offsets[],
    options: { readonly factor: number; readonly epsilon: number },
  ): { sum: Value; normed: Operand[] }
  /** Unpacks a 4-bit FP8 matrix to E4M3 codes for its product with `x`. */
  unpack(weight: PackedWeight, x: Operand): QuantizedMatrix
  /** factor · x · weight transposed + bias. */
  linear(x: Operand, weight: QuantizedMatrix, bias: Value, factor: number): Value
  /** gelu(factor · x), quantized by rows. */
  geluQuantize(x: Value, factor: number): Operand
  /** Attention over the tokens of both streams → [B, S + T, D], or [B, S, D] if the text has no queries. Heads have 64 values. */
  attend(image: Projections, text: Projections | null, epsilon: number): Value
  /** The tokens of a joint sequence, quantized by rows: the first ones, as many as in `like`, and with `rest` the others. */
  quantizeParts(joint: Value, like: Value, rest: Value | null): Operand[]
  /** Adds an adapter's update to an FP8 weight; not part of a network. */
  addLowRank: AddLowRank
  /** A map with its deferred terms applied. */
  applyDeferred(map: FeatureMap): Value
  /** GroupNorm of a map with its deferred terms applied, optionally with SiLU; with `keep`, also the map. */
  groupNorm(
    map: FeatureMap,
    weight: Value,
    bias: Value,
    options: Parameters<Lowering['groupNorm']>[2],
  ): ReturnType<Lowering['groupNorm']>
}

/** The divisor of products that may be large: those before GELU and before a gate. */
const UNIT = 16
const HEAD_DEPTH = 64
/** GroupNorm's number of channels must be a multiple of this. */
const CHANNELS = 8

/** A lowering over FP8 operators; all other layers are those of `base`. */
export function createFp8Lowering(operators: Fp8Operators, base: Lowering): Lowering {
  const attend: Lowering['attend'] = (parts, options) => {
    const [image, text] = parts
    if (!image.x.rowScales) return base.attend(parts, options)
    if (!options.qkNorm || options.width / options.heads !== HEAD_DEPTH) {
      return attendByOperators(parts, options).map((y, i) => operators.quantizeParts(y, parts[i]!.x, null)[0]!)
    }
    const joint = operators.attend(project(image), text ? project(text) : null, options.epsilon)
    return operators.quantizeParts(joint, image.x, text?.queries === false ? null : (text?.x ?? null))
  }

  const project = ({ s, x, queries = true }: AttentionInput): Projections => {
    const width = x.shape.at(-1) as number
    const [qkv] = projections(s.at('qkv'), x, width, [[queries ? 0 : width, 3 * width]])
    const norm = (name: string) => ops.cast(s.at(name).parameter('weight', [HEAD_DEPTH]), 'float32')
    if (!queries) s.drop('ln_q.weight', [HEAD_DEPTH]) // the last block does not use the text's queries
    const queryNorm = queries ? norm('ln_q') : null
    return { qkv: qkv!, queryNorm, keyNorm: norm('ln_k') }
  }

  const quantize = (s: Scope, x: Operand, weight: Matrix): QuantizedMatrix => {
    if (isPacked(weight)) return operators.unpack(weight, x)
    if (isQuantized(weight)) return weight
    throw new GraphError(`${s.path}: the weight of an FP8 product is not FP8`)
  }

  return {
    ...base,
    target: 'cuda-fp8',
    batch: 'B',
    streamUnit: 16,
    linear(s, x, weight, bias, activation) {
      if (!x.rowScales) return base.linear(s, x, weight, bias, activation)
      const codes = quantize(s, x, weight)
      if (activation !== 'gelu_tanh') return operators.linear(x, codes, bias!, 1)
      return operators.geluQuantize(operators.linear(x, codes, scaleToUnits(bias!), 1 / UNIT), UNIT)
    },
    branch(s, x, weight, bias, gate) {
      if (!gate) return base.branch(s, x, weight, bias, null)
      return { value: operators.linear(x, quantize(s, x, weight), scaleToUnits(bias), 1 / UNIT), gate }
    },
    modulationVectors(modulation, width) {
      const count = Number(modulation.shape[1]) / width
      return Array.from({ length: count }, (_, i) => ({ value: modulation, offset: i * width }))
    },
    modulate(stream, modulations, epsilon, reader) {
      if (modulations[0]!.shift.offset === undefined) return base.modulate(stream, modulations, epsilon, reader)
      if (!reader.isNative('weight')) return modulateByOperators(stream, modulations, epsilon)
      const branches = stream.deferred.map(({ value, gate }) => ({ value, gate: gate!.offset! }))
      const offsets = modulations.map(({ shift, scale }) => ({ shift: shift.offset!, scale: scale.offset! }))
      const options = { factor: UNIT, epsilon }
      const vector = modulations[0]!.shift.value
      const { sum, normed } = operators.modulateQuantize(stream.value, branches, vector, offsets, options)
      return { stream: { value: sum, deferred: [] }, normed }
    },
    attend,
    defersBiases: true,
    addSkip: (skip, { value, deferred }) => ({ value, deferred: { bias: deferred!.bias, skip } }),
    applyDeferred: operators.applyDeferred,
    groupNorm(s, map, options) {
      const channels = base.channels(map.value)
      if (channels % CHANNELS !== 0) return base.groupNorm(s, { value: operators.applyDeferred(map) }, options)
      return operators.groupNorm(map, ...groupNormParameters(s, channels), options)
    },
  }
}

/** In float32, so that onnxruntime folds the product when it opens the graph: its CPU provider has no 16-bit product. */
function scaleToUnits(bias: Value): Value {
  const wide = ops.cast(bias, 'float32')
  return ops.cast(ops.multiply(wide, ops.scalar(wide, 1 / UNIT)), bias.dtype)
}

type Modulate = (
  ...args: Parameters<Lowering['modulate']> extends [...infer A, unknown] ? A : never
) => ReturnType<Lowering['modulate']>

/** The sum and its norm in 16 bits, for a layer without an FP8 product. */
const modulateByOperators: Modulate = ({ value, deferred }, modulations, epsilon) => {
  const width = value.shape.at(-1) as number
  const vector = ({ value: all, offset }: ModulationVector, factor = 1) => {
    const [start, end] = [offset!, offset! + width].map((at) => ops.int64(all, [at])) as [Value, Value]
    const row = ops.reshape(ops.slice(all, start, end, 1, width), [all.shape[0]!, 1, width])
    return ops.cast(factor === 1 ? row : ops.multiply(row, ops.scalar(row, factor)), value.dtype)
  }
  const sum = deferred.reduce((x, branch) => ops.add(x, ops.multiply(branch.value, vector(branch.gate!, UNIT))), value)
  const normed = modulations.map(({ scale, shift }) =>
    ops.layerNormalization(sum, vector(scale), vector(shift), epsilon),
  )
  return { stream: { value: sum, deferred: [] }, normed }
}
