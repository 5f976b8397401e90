// The values that layers exchange.
// B batch · S tokens · D width · M modulation · C channels
import type { IntegerBits } from '../checkpoint/formats/integer-blocks.ts'
import type { Value } from './graph.ts'

export type Activation = 'gelu' | 'gelu_tanh' | 'quick_gelu'
/** `bias: false` for a module without a bias; the checkpoint must have all others. */
export type LinearOptions = { activation?: Activation; bias?: boolean }
/** Input [B, S, D] of a layer. In FP8 the value is the code × `rowScales` [B, S]. */
export type Operand = Value & { readonly rowScales?: Value }
/** One vector [B, D] of a modulation, in the target's form: by itself, or in the whole modulation [B, M] from `offset` on. */
export type ModulationVector = { readonly value: Value; readonly column?: Value; readonly offset?: number }
/** Deferred residual branch `gate * (value + bias)`, left unapplied so that the target can fuse it into the next norm. */
export type ResidualBranch = { readonly value: Value; readonly bias?: Value; readonly gate?: ModulationVector }
/** A residual stream `value + Σ deferred` [B, S, D] in units of the target's `streamUnit`. */
export type Stream = { readonly value: Value; readonly deferred: readonly ResidualBranch[] }
/** `scale` holds 1 + scale; gates are in the stream's units. */
export type Modulation = { readonly shift: ModulationVector; readonly scale: ModulationVector }
/**
 * A feature map `value + deferred.bias + deferred.skip` of the autoencoder, in the target's layout of [B, C, H, W]. Bias [C] and skip, a map
 * of the same shape, are left unapplied so that the target can fuse them into the next norm.
 */
export type FeatureMap = {
  readonly value: Value
  readonly deferred?: { readonly bias: Value; readonly skip?: Value }
}
export type Qkv = { readonly q: Value; readonly k: Value; readonly v: Value }
export type JointAttentionOptions = {
  readonly heads: number
  readonly width: number
  readonly qkNorm: boolean
  readonly epsilon: number
}
export type ConvolutionOptions = { readonly kernel: number; readonly stride: number; readonly padding: number }
export type GroupNormOptions = { readonly groups: number; readonly epsilon: number; readonly silu: boolean }

/** An FP8 matrix: codes [N, K], scales float32 [N] or [N, 1]; the value is code × scale. */
export type QuantizedMatrix = { readonly codes: Value; readonly scales: Value }
/** A block-quantized matrix [N, K]: codes uint8 [N, K ÷ block, bytes per block], scales [N, K ÷ block] in the type of the activations. */
export type IntegerBlocks = {
  readonly blocks: Value
  readonly scales: Value
  readonly bits: IntegerBits
  readonly block: number
}
/**
 * A 4-bit FP8 matrix [N, K] (checkpoint/formats/fp8-int4.ts): packed integers uint8 [N, K ÷ 32, 16], group scale bytes uint8 [N, K ÷ 32],
 * row scales float32 [N] or [N, 1].
 */
export type PackedWeight = { readonly packed: Value; readonly groupScales: Value; readonly scales: Value }
export type Matrix = Value | QuantizedMatrix | IntegerBlocks | PackedWeight
export const isQuantized = (weight: Matrix): weight is QuantizedMatrix => 'codes' in weight
export const isIntegers = (weight: Matrix): weight is IntegerBlocks => 'blocks' in weight
export const isPacked = (weight: Matrix): weight is PackedWeight => 'packed' in weight
