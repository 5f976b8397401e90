import { existsSync } from 'node:fs'
import { expect, test } from 'vitest'
import type { CountedCall } from '../../../../infra/bench/operators/calls.ts'
import { formatRatesTable, profileTable, type TimedCall } from '../../../../infra/bench/operators/table.ts'
import { ORT_HEADER } from '../../../../infra/bench/operators/timing.ts'
import { peakShareOf, peaksOf, rateOf, workOf } from '../../../../infra/bench/operators/work.ts'

const createHalf = (...shape: number[]) => ({ dtype: 'float16', shape }) as const
const createCodes = (...shape: number[]) => ({ dtype: 'float8e4m3fn', shape }) as const
const createFloats = (...shape: number[]) => ({ dtype: 'float32', shape }) as const

const LINEAR: CountedCall = {
  ...{ op: 'Linear', attributes: { factor: 1 }, count: 38, layers: ['x_block.attn.qkv'] },
  inputs: [
    createCodes(1, 4096, 2432),
    createFloats(1, 4096),
    createCodes(7296, 2432),
    createFloats(7296, 1),
    createHalf(7296),
  ],
  outputs: [createHalf(1, 4096, 7296)],
}
/** A paired call for the same layer in both streams. */
const PAIR: CountedCall = {
  ...LINEAR,
  inputs: [...LINEAR.inputs, createCodes(1, 333, 2432), createFloats(1, 333), ...LINEAR.inputs.slice(2)],
  outputs: [...LINEAR.outputs, createHalf(1, 333, 7296)],
}
const GELU: CountedCall = {
  ...{ op: 'GeluQuantize', attributes: {}, count: 37, layers: ['x_block.mlp.fc1'] },
  inputs: [createHalf(1, 4096, 9728)],
  outputs: [createCodes(1, 4096, 9728), createFloats(1, 4096)],
}
const ATTENTION: CountedCall = {
  ...{ op: 'Attention', attributes: {}, count: 37, layers: ['x_block.attn'] },
  inputs: [null, null, null, null, createHalf(1, 4096, 7296), createHalf(1, 333, 7296)],
  outputs: [createHalf(1, 4429, 2432)],
}
const H200 = peaksOf('NVIDIA H200')!

test('work consists of FLOPs of matrix products and bytes of memory traffic', () => {
  expect(workOf(LINEAR)).toMatchObject({ products: 2 * 4096 * 2432 * 7296 })
  expect(workOf(PAIR)).toMatchObject({ products: 2 * (4096 + 333) * 2432 * 7296 })
  expect(workOf(GELU)).toEqual({ bytes: 3 * 4096 * 9728 + 4 * 4096, products: 0 })
  expect(workOf(ATTENTION)).toEqual({ bytes: 2 * 4429 * 2432, products: 4 * 4429 * 4429 * 2432 })
})

test('rates and shares of peak match the published figures', () => {
  expect(rateOf(workOf(LINEAR), 100).value).toBeCloseTo(1453.6, 0)
  expect(peakShareOf(workOf(LINEAR), 100, H200)).toBeCloseTo(0.735, 2)
  expect(rateOf(workOf(ATTENTION), 226)).toMatchObject({ unit: 'TFLOP/s', value: expect.closeTo(844, 0) })
  expect(peakShareOf(workOf(ATTENTION), 226, H200)).toBeCloseTo(0.43, 2)
  expect(rateOf(workOf(GELU), 38)).toMatchObject({ unit: 'TB/s', value: expect.closeTo(3.15, 1) })
})

test.each([
  ['NVIDIA H100 80GB HBM3', 1979],
  ['NVIDIA H100 PCIe', 1513],
  ['NVIDIA L40S', 733],
  ['NVIDIA RTX 5090', undefined],
])('the FP8 peak of %s is %s', (name, peak) => expect(peaksOf(name)?.[0]).toBe(peak))

const TIMED: TimedCall[] = [
  { call: GELU, time: { microseconds: 40 } },
  { call: LINEAR, time: { microseconds: 100 } },
]

test('the profile multiplies times by call counts and lists the rest of the step', () => {
  expect(profileTable(TIMED, 10, H200).split('\n')).toEqual([
    '| operator | layers | calls | µs | ms per step | share of the step | rate | share of peak |',
    '|---|---|---:|---:|---:|---:|---:|---:|',
    '| Linear [4096, 2432] · [7296, 2432] | x_block.attn.qkv | 38 | 100.0 | 3.80 | 38 % | 1,454 TFLOP/s | 73 % |',
    '| GeluQuantize [4096, 9728] | x_block.mlp.fc1 | 37 | 40.0 | 1.48 | 15 % | 2.99 TB/s | 62 % |',
    '| all FP8 operators | | 75 | | 5.28 | 53 % | | |',
    '| the rest: head, tail and gaps | | | | 4.72 | 47 % | | |',
    '| the step | | | | 10.00 | 100 % | | |',
  ])
})

test('the description of a paired call contains the shapes of both streams', () => {
  const [, , row] = formatRatesTable([{ call: PAIR, time: { microseconds: 110 } }], H200).split('\n')
  expect(row).toBe(
    '| Linear [4096, 2432] and [333, 2432] · [7296, 2432] | x_block.attn.qkv | 110.0 | 1,429 TFLOP/s | 72 % |',
  )
})

test('the table contains the error of an operator that was not timed', () => {
  const failed: TimedCall = { call: GELU, time: { error: 'no kernel image | for the device' } }
  const reason = 'not measured: no kernel image \\| for the device'
  expect(formatRatesTable([failed], undefined)).toContain(
    `| GeluQuantize [4096, 9728] | x_block.mlp.fc1 | | ${reason} | |`,
  )
  const table = profileTable([failed, TIMED[1]!], 10, undefined)
  expect(table).toContain('| all FP8 operators, without those that were not measured | | 75 | | 3.80 |')
  expect(table).toContain(
    '| Linear [4096, 2432] · [7296, 2432] | x_block.attn.qkv | 38 | 100.0 | 3.80 | 38 % | 1,454 TFLOP/s | |',
  )
})

test('the header of the C API exists', () => expect(existsSync(ORT_HEADER)).toBe(true))
