// Recipes for the bytes of a weight, from tensors of a checkpoint. compile/write executes them.
import type { Tensor } from '../checkpoint/tensor.ts'

/** `codes`: FP8. `scales`: of the codes in the preceding weight. `bytes`: data that is not in the checkpoint. */
export type WeightSource =
  | {
      readonly kind: 'cast'
      readonly tensor: Tensor
      readonly rows: Rows
      readonly storage: 'float32' | 'float16'
      readonly channelsLast: boolean
    }
  | { readonly kind: 'codes'; readonly tensor: Tensor; readonly rows: Rows }
  | { readonly kind: 'scales' }
  | { readonly kind: 'bytes'; readonly data: Uint8Array }
/** Rows [start, end) of a tensor. */
export type Rows = readonly [start: number, end: number]
