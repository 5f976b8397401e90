// The values that layers exchange.
// B batch · S tokens · D width · M modulation · C channels
import type { Value } from './graph.ts'

export type Activation = 'gelu' | 'gelu_tanh' | 'quick_gelu'
/** `bias: false` is a module that has none; any other must bring it. */
export type LinearOptions = { activation?: Activation; bias?: boolean }
/** Activations [B, S, D] on their way to a layer. Where a target has them in FP8, a value is its code × its row's scale [B, S]. */
export type Operand = Value & { readonly rowScales?: Value }
/** One row [B, D] of a modulation, in the form that the target's layers take; or all of it [B, M], in which the row begins at `offset`. */
export type ModulationVector = { readonly value: Value; readonly column?: Value; readonly offset?: number }
/** What is about to be added to a stream; `bias` [D] is still to be added to `value`, then `gate` is still to be multiplied with. */
export type Branch = { readonly value: Value; readonly bias?: Value; readonly gate?: ModulationVector }
/**
 * A residual stream [B, S, D] in units of the target's `streamUnit`, with branches that are still to be added, so that a target can add
 * and normalise at once.
 */
export type Stream = { readonly value: Value; readonly pending: readonly Branch[] }
/** `scale` holds 1 + scale; gates are in the stream's units. */
export type Modulation = { readonly shift: ModulationVector; readonly scale: ModulationVector }
/**
 * Activations [B, C, H, W] of the autoencoder, laid out as the target likes it, to which `bias` [C] and `skip`, a map of the same shape,
 * are still to be added, so that a target can add and normalise at once.
 */
export type FeatureMap = {
  readonly value: Value
  readonly pending?: { readonly bias: Value; readonly skip?: Value }
}
export type Qkv = { readonly q: Value; readonly k: Value; readonly v: Value }
export type AttendOptions = {
  readonly heads: number
  readonly width: number
  readonly qkNorm: boolean
  readonly epsilon: number
}
export type ConvolutionOptions = { readonly kernel: number; readonly stride: number; readonly padding: number }
export type GroupNormOptions = { readonly groups: number; readonly epsilon: number; readonly silu: boolean }

/** An FP8 matrix: codes [N, K], scales float32 [N], [N, 1] or [N, K / block]; the value is code × scale. */
export type Quantised = { readonly codes: Value; readonly scales: Value; readonly block: number }
export const isQuantised = (weight: Value | Quantised): weight is Quantised => 'codes' in weight
