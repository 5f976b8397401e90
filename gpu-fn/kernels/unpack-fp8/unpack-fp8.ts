// UnpackFp8: decodes 4-bit FP8 weights to E4M3 codes.
import { GROUP, GROUP_BYTES } from '../../compile/checkpoint/formats/fp8-int4.ts'
import * as ops from '../../compile/graph/ops.ts'
import { toCodes } from '../../compile/graph/packed.ts'
import type { Fp8Operators } from '../../compile/lower/cuda-fp8.ts'
import type { Tensor } from '../../runtime/session.ts'
import { type Case, createCodes, createNoise, editTensor } from '../definition/test-case.ts'

export const definition: Pick<Fp8Operators, 'unpack'> = { unpack: toCodes }

/** Test data: random bytes. */
const createBytes = (dims: number[], seed: number): Tensor =>
  editTensor(createNoise(dims, seed, 1000), (data) => {
    for (const [i, value] of data.entries()) data[i] = Math.abs(Math.trunc(value)) % 256
  })

function caseOf(name: string, packed: Tensor, groupScales: Tensor): Case {
  const [n, groups] = groupScales.dims as [number, number]
  return {
    name: `UnpackFp8 ${name} [${n}, ${groups * GROUP}]`,
    tolerance: { all: 0, row: 0 },
    inputs: { packed, groupScales, x: createCodes([1, 1, 16], 3) },
    build(inputs, operators) {
      const [packed, groupScales] = [inputs.packed!, inputs.groupScales!].map((value) => ops.cast(value, 'uint8'))
      const weight = { packed: packed!, groupScales: groupScales!, scales: inputs.x! }
      return { codes: ops.cast(operators.unpack(weight, ops.cast(inputs.x!, 'float8e4m3fn')).codes, 'float32') }
    },
  }
}

const createRandomCase = (name: string, n: number, k: number): Case =>
  caseOf(name, createBytes([n, k / GROUP, GROUP_BYTES], 1), createBytes([n, k / GROUP], 2))

/** Test data: one row per scale byte, with every integer in the low and in the high nibble. */
const createEveryCode = (): Case => {
  const packed = editTensor(createNoise([256, 1, GROUP_BYTES], 1), (data) => {
    for (const i of data.keys()) data[i] = (i % 16) * 16 + ((i + Math.floor(i / 16)) % 16)
  })
  const scales = editTensor(createNoise([256, 1], 1), (data) => {
    for (const i of data.keys()) data[i] = i
  })
  return caseOf('of every scale and integer', packed, scales)
}

export const cases: readonly Case[] = [
  createEveryCode(),
  createRandomCase('of Large, fc1', 304, 2432),
  createRandomCase('of Large, fc2', 38, 9728),
  createRandomCase('of one group', 1, 32),
  createRandomCase('odd', 13, 96),
]
