// UnpackFp8: decodes 4-bit FP8 weights to E4M3 codes.
import { GROUP, GROUP_BYTES, groupScaleTable } from '../../compile/checkpoint/formats/fp8-int4.ts'
import type { Value } from '../../compile/graph/graph.ts'
import * as ops from '../../compile/graph/ops.ts'
import type { Fp8Operators } from '../../compile/lower/cuda-fp8.ts'
import type { Tensor } from '../../runtime/session.ts'
import { constant } from '../definition/quantize.ts'
import { type Case, codes, edited, noise } from '../definition/test-case.ts'

const MIDDLE = 8
const floor = (x: Value) => x.graph.node('Floor', [x], [{ dtype: x.dtype, shape: x.shape }])[0]!

export const definition: Pick<Fp8Operators, 'unpack'> = {
  unpack({ packed, groupScales, scales }) {
    const [n, groups] = groupScales.shape as [number, number]
    const bytes = ops.reshape(ops.cast(packed, 'float32'), [n, groups, GROUP_BYTES, 1])
    const high = floor(ops.multiply(bytes, constant(bytes, 1 / 16)))
    const low = ops.subtract(bytes, ops.multiply(high, constant(bytes, 16)))
    const integers = ops.subtract(ops.reshape(ops.concat([low, high], 3), [n, groups, GROUP]), constant(bytes, MIDDLE)) // [N, groups, 32]
    const table = ops.float32(groupScales, [...groupScaleTable])
    const ofGroups = ops.reshape(ops.gather(table, ops.cast(groupScales, 'int64')), [n, groups, 1])
    const values = ops.reshape(ops.multiply(integers, ofGroups), [n, groups * GROUP])
    return { codes: ops.cast(values, 'float8e4m3fn'), scales }
  },
}

/** Test data: random bytes. */
const bytes = (dims: number[], seed: number): Tensor =>
  edited(noise(dims, seed, 1000), (data) => {
    for (const [i, value] of data.entries()) data[i] = Math.abs(Math.trunc(value)) % 256
  })

function caseOf(name: string, packed: Tensor, groupScales: Tensor): Case {
  const [n, groups] = groupScales.dims as [number, number]
  return {
    name: `UnpackFp8 ${name} [${n}, ${groups * GROUP}]`,
    tolerance: { all: 0, row: 0 },
    inputs: { packed, groupScales, x: codes([1, 1, 16], 3) },
    build(inputs, operators) {
      const [packed, groupScales] = [inputs.packed!, inputs.groupScales!].map((value) => ops.cast(value, 'uint8'))
      const weight = { packed: packed!, groupScales: groupScales!, scales: inputs.x! }
      return { codes: ops.cast(operators.unpack(weight, ops.cast(inputs.x!, 'float8e4m3fn')).codes, 'float32') }
    },
  }
}

const random = (name: string, n: number, k: number): Case =>
  caseOf(name, bytes([n, k / GROUP, GROUP_BYTES], 1), bytes([n, k / GROUP], 2))

/** Test data: one row per scale byte, with every integer in the low and in the high nibble. */
const everyCode = (): Case => {
  const packed = edited(noise([256, 1, GROUP_BYTES], 1), (data) => {
    for (const i of data.keys()) data[i] = (i % 16) * 16 + ((i + Math.floor(i / 16)) % 16)
  })
  const scales = edited(noise([256, 1], 1), (data) => {
    for (const i of data.keys()) data[i] = i
  })
  return caseOf('of every scale and integer', packed, scales)
}

export const cases: readonly Case[] = [
  everyCode(),
  random('of Large, fc1', 304, 2432),
  random('of Large, fc2', 38, 9728),
  random('of one group', 1, 32),
  random('odd', 13, 96),
]
