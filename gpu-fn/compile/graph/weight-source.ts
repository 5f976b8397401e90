// How the bytes of a weight are made from a checkpoint; compile/write carries it out.
import type { Tensor } from '../checkpoint/tensor.ts'

/** `codes` are FP8, and `scales` are those of the codes before them; `bytes` is computed data. */
export type WeightSource =
  | {
      readonly kind: 'cast'
      readonly tensor: Tensor
      readonly rows: Rows
      readonly storage: 'float32' | 'float16'
      readonly channelsLast: boolean
    }
  | { readonly kind: 'codes'; readonly tensor: Tensor; readonly rows: Rows; readonly block: number }
  | { readonly kind: 'scales' }
  | { readonly kind: 'bytes'; readonly data: Uint8Array }
/** Rows [start, end) of a tensor. */
export type Rows = readonly [start: number, end: number]
