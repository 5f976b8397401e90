// Graph helpers for 4-bit FP8 weights (checkpoint/formats/fp8-int4.ts).
import type { Dtype } from '../../dtype.ts'
import { GROUP, GROUP_BYTES, groupScaleTable } from '../checkpoint/formats/fp8-int4.ts'
import type { Value } from './graph.ts'
import type { IntegerBlocks, PackedWeight, QuantizedMatrix } from './layer-types.ts'
import * as ops from './ops.ts'

/** Zero point of the stored integers. */
const MIDDLE = 8

/** Shape [N, K] of the unpacked matrix. */
export function shapeOfCodes({ groupScales }: PackedWeight): [n: number, k: number] {
  const [n, groups] = groupScales.shape as [number, number]
  return [n, groups * GROUP]
}

/** The group scales [N, K ÷ 32]. */
const scalesOf = (groupScales: Value) =>
  ops.gather(ops.float32(groupScales, [...groupScaleTable]), ops.cast(groupScales, 'int64'))

/**
 * Unpacks the matrix to E4M3 codes, as a definition of the operator UnpackFp8. onnxruntime folds these nodes when a CPU session is opened.
 */
export function toCodes({ packed, groupScales, scales }: PackedWeight): QuantizedMatrix {
  const [n, groups] = groupScales.shape as [number, number]
  const bytes = ops.reshape(ops.cast(packed, 'float32'), [n, groups, GROUP_BYTES, 1])
  const constant = (value: number) => ops.float32(bytes, [value], [])
  const high = ops.floor(ops.multiply(bytes, constant(1 / 16)))
  const low = ops.subtract(bytes, ops.multiply(high, constant(16)))
  const integers = ops.subtract(ops.reshape(ops.concat([low, high], 3), [n, groups, GROUP]), constant(MIDDLE)) // [N, groups, 32]
  const values = ops.multiply(integers, ops.reshape(scalesOf(groupScales), [n, groups, 1]))
  return { codes: ops.cast(ops.reshape(values, [n, groups * GROUP]), 'float8e4m3fn'), scales }
}

/** The matrix as block-quantized integers with scales of type `dtype`, without the rounding of values to E4M3. */
export function toIntegers({ packed, groupScales, scales }: PackedWeight, dtype: Dtype): IntegerBlocks {
  const products = ops.multiply(scalesOf(groupScales), ops.reshape(scales, [groupScales.shape[0]!, 1]))
  return { blocks: packed, scales: ops.cast(products, dtype), bits: 4, block: GROUP }
}
