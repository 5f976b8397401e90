// The storage type of every tensor, by the rules of a network family.
/**
 * For weights of linear layers only: `int8` and `int4`, block-quantized integers (checkpoint/formats/integer-blocks.ts), and `fp8-int4`,
 * 4-bit FP8 (checkpoint/formats/fp8-int4.ts).
 */
export type Storage = 'float32' | 'float16' | 'float8e4m3fn' | 'int8' | 'int4' | 'fp8-int4'

export type Rule = {
  readonly network: RegExp
  readonly tensor: RegExp
  /** Applies to tensors of at most this rank. */
  readonly rank?: number
  readonly storage: Storage
  readonly why: string
  /** FP8 only: whether target cuda-fp8 multiplies the weights as they are, with activations in FP8, or widens them as target cuda does. */
  readonly native?: { readonly multiplied: boolean; readonly why: string }
}

export type Precision = {
  storageOf(network: string, tensor: string, shape: readonly number[]): Storage
  /** Whether target cuda-fp8 multiplies this weight in FP8. */
  isNative(network: string, tensor: string): boolean
}

/** The first matching rule applies. */
export function precisionOf(rules: readonly Rule[]): Precision {
  const find = (network: string, tensor: string, rank: number) =>
    rules.find(
      (rule) =>
        rule.network.test(network) && rule.tensor.test(tensor) && (rule.rank === undefined || rank <= rule.rank),
    )
  return {
    storageOf: (network, tensor, shape) => find(network, tensor, shape.length)!.storage,
    isNative: (network, tensor) => find(network, tensor, Number.POSITIVE_INFINITY)?.native?.multiplied ?? false,
  }
}
