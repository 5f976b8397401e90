// AddLowRank: the update of an FP8 weight by adapters (LoRAs).
import { decodeTable } from '../../compile/checkpoint/formats/fp8.ts'
import type { Value } from '../../compile/graph/graph.ts'
import { addLowRank } from '../../compile/graph/lora-graphs.ts'
import * as ops from '../../compile/graph/ops.ts'
import type { Fp8Operators } from '../../compile/lower/cuda-fp8.ts'
import { type Case, CODES, createNoise, editTensor, makePositive } from '../definition/test-case.ts'

export const definition: Pick<Fp8Operators, 'addLowRank'> = { addLowRank }

const createTable = (like: Value) =>
  ops.float32(
    like,
    Array.from(decodeTable, (value) => (Number.isNaN(value) ? 0 : value)),
  )

/** `strength` is the magnitude of the update relative to a row's scale. */
function caseOf(name: string, [n, k, rank]: [number, number, number], strength: number): Case {
  const codes = editTensor(createNoise([n, k], 1, 40), (data) => {
    // Codes of both signs up to 126; rows 1 and 2 are zero, and the update of row 2 too.
    for (const [i, value] of data.entries()) data[i] = (Math.abs(Math.trunc(value)) % 127) + (value < 0 ? 128 : 0)
    data.fill(0, k, Math.min(3, n) * k)
  })
  const up = editTensor(createNoise([rank, n], 3, strength), (data) => {
    for (let i = 0; i < rank; i++) data[i * n + 2] = 0
  })
  return {
    name: `AddLowRank ${name} [${n}, ${k}] + [${rank}, ${n}] transposed · [${rank}, ${k}]`,
    tolerance: CODES,
    inputs: {
      ...{ codes, scales: makePositive(createNoise([n, 1], 2, 0.001)), up, factors: createNoise([rank, 1], 4) },
      down: createNoise([rank, k], 5, 1 / Math.sqrt(rank)),
      row_phases: editTensor(createNoise([n, 1], 6), wrap),
      column_phases: editTensor(createNoise([1, k], 7), wrap),
    },
    build(inputs, operators) {
      const { up, factors, down, scales, row_phases: rowPhases, column_phases: columnPhases } = inputs as Inputs
      const codes = ops.cast(inputs.codes!, 'uint8')
      const sum = operators.addLowRank({ codes, scales, up, factors, down, rowPhases, columnPhases })
      const values = ops.gather(createTable(codes), ops.cast(sum.codes, 'int64'))
      return { sum: ops.multiply(values, sum.scales), 'sum scales': sum.scales }
    },
  }
}

type Inputs = Record<'up' | 'factors' | 'down' | 'scales' | 'row_phases' | 'column_phases', Value>

/** Moves values to [0, 1). */
function wrap(data: Float32Array): void {
  for (const [i, value] of data.entries()) data[i] = Math.fround(value - Math.floor(value)) % 1
}

export const cases: readonly Case[] = [
  caseOf('of a weak adapter', [136, 2432, 16], 1e-4),
  caseOf('of a strong one', [64, 1536, 48], 0.5),
  caseOf('with odd sizes', [13, 145, 5], 0.02),
  caseOf('of a high rank', [20, 320, 600], 0.01),
]
