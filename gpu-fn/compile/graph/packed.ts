// Graph helpers for 4-bit FP8 weights (checkpoint/formats/fp8-int4.ts).
import type { Dtype } from '../../dtype.ts'
import { GROUP, groupScaleTable } from '../checkpoint/formats/fp8-int4.ts'
import type { IntegerBlocks, Packed } from './layer-types.ts'
import * as ops from './ops.ts'

/** Shape [N, K] of the unpacked matrix. */
export function shapeOfCodes({ groupScales }: Packed): [n: number, k: number] {
  const [n, groups] = groupScales.shape as [number, number]
  return [n, groups * GROUP]
}

/** The matrix as block-quantized integers with scales of type `dtype`, without the rounding of values to E4M3. */
export function toIntegers({ packed, groupScales, scales }: Packed, dtype: Dtype): IntegerBlocks {
  const ofGroups = ops.gather(ops.float32(groupScales, [...groupScaleTable]), ops.cast(groupScales, 'int64'))
  const products = ops.multiply(ofGroups, ops.reshape(scales, [groupScales.shape[0]!, 1]))
  return { blocks: packed, scales: ops.cast(products, dtype), bits: 4, block: GROUP }
}
