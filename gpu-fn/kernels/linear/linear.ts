// Linear: products of FP8 activations and FP8 weights.
import type { Value } from '../../compile/graph/graph.ts'
import type { Operand } from '../../compile/graph/layer-types.ts'
import * as ops from '../../compile/graph/ops.ts'
import type { Fp8Operators } from '../../compile/lower/cuda-fp8.ts'
import { constant } from '../definition/quantize.ts'
import { type Case, createCodes, createNoise, editTensor, HALVES, makePositive } from '../definition/test-case.ts'

const columnOf = (scales: Value) => ops.reshape(scales, [...scales.shape, 1])

export const definition: Pick<Fp8Operators, 'linear'> = {
  linear(x, { codes, scales }, bias, factor) {
    const product = ops.matmulTransposed(ops.cast(x, 'float32'), ops.cast(codes, 'float32'))
    const scaled = ops.multiply(ops.multiply(product, columnOf(x.rowScales!)), ops.reshape(scales, [codes.shape[0]!]))
    return ops.add(ops.multiply(scaled, constant(scaled, factor)), bias)
  },
}

function caseOf(name: string, [m, k, n]: [number, number, number], factor = 1, x = createCodes([1, m, k], 1)): Case {
  return {
    name: `Linear ${name} [${m}, ${k}] · [${n}, ${k}]`,
    tolerance: HALVES,
    inputs: {
      x,
      scales: makePositive(createNoise([1, m], 2, 0.01)),
      weight: createCodes([n, k], 3),
      weightScales: makePositive(createNoise([n], 4, 0.001)),
      bias: createNoise([n], 5),
    },
    build(inputs, operators, half) {
      const x: Operand = { ...ops.cast(inputs.x!, 'float8e4m3fn'), rowScales: inputs.scales! }
      const weight = { codes: ops.cast(inputs.weight!, 'float8e4m3fn'), scales: inputs.weightScales!, block: k }
      return { y: ops.cast(operators.linear(x, weight, half(inputs.bias!), factor), 'float32') }
    },
  }
}

/** One node with two products of different row counts. */
function pairOf(name: string, [m, rows, k, n]: [number, number, number, number]): Case {
  const both = [caseOf('', [m, k, n], 1 / 16), caseOf('', [rows, k, n], 1 / 16, createCodes([1, rows, k], 6))]
  const inputsOf = (i: number, { inputs }: Case) => Object.entries(inputs).map(([key, value]) => [`${key} ${i}`, value])
  return {
    name: `Linear ${name} [${m} and ${rows}, ${k}] · [${n}, ${k}]`,
    tolerance: HALVES,
    inputs: Object.fromEntries(both.flatMap((part, i) => inputsOf(i, part))),
    build(inputs, operators, half, layout) {
      const results = both.map((part, i) => {
        const own = Object.keys(part.inputs).map((key) => [key, inputs[`${key} ${i}`]!])
        return part.build(Object.fromEntries(own), operators, half, layout).y!
      })
      return { y: results[0]!, 'second y': results[1]! }
    },
  }
}

export const cases: readonly Case[] = [
  pairOf('of image and text', [513, 77, 2432, 9728]),
  pairOf('of image and text, nano', [64, 333, 192, 768]),
  caseOf('of Large, qkv', [333, 2432, 7296]),
  caseOf('of Large, fc2', [77, 9728, 2432], 1 / 16),
  caseOf('one token', [1, 192, 576]),
  caseOf('odd', [129, 1536, 1552]),
  caseOf(
    'with a row of NaN',
    [3, 192, 64],
    1,
    editTensor(createCodes([1, 3, 192], 1), (data) => {
      data[192 + 5] = Number.NaN
    }),
  ),
]
