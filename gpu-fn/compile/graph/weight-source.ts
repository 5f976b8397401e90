// Recipes for the bytes of a weight, from tensors of a checkpoint. compile/write executes them.
import type { IntegerBits } from '../checkpoint/formats/integer-blocks.ts'
import type { Tensor } from '../checkpoint/tensor.ts'

/**
 * `codes`: FP8. `packed`: 4-bit FP8. `integers`: block-quantized integers. `group-scales` and `scales`: scales of the preceding weight.
 * `bytes`: data from outside the checkpoint.
 */
export type WeightSource =
  | {
      readonly kind: 'cast'
      readonly tensor: Tensor
      readonly rows: Rows
      readonly storage: 'float32' | 'float16'
      readonly channelsLast: boolean
    }
  | { readonly kind: 'codes' | 'packed'; readonly tensor: Tensor; readonly rows: Rows }
  | { readonly kind: 'integers'; readonly tensor: Tensor; readonly rows: Rows; readonly bits: IntegerBits }
  | { readonly kind: 'group-scales' }
  | { readonly kind: 'scales'; readonly storage: 'float32' | 'float16' }
  | { readonly kind: 'bytes'; readonly data: Uint8Array }
/** Rows [start, end) of a tensor. */
export type Rows = readonly [start: number, end: number]
