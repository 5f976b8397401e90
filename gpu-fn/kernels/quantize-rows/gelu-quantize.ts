import * as ops from '../../compile/graph/ops.ts'
import type { Fp8Operators } from '../../compile/lower/cuda-fp8.ts'
import type { Tensor } from '../../runtime/session.ts'
import { constant, quantize } from '../definition/quantize.ts'
import { type Case, CODES, createNoise, editTensor, nameOperands } from '../definition/test-case.ts'

export const definition: Pick<Fp8Operators, 'geluQuantize'> = {
  geluQuantize: (x, factor) => quantize(ops.gelu(ops.multiply(x, constant(x, factor)), 'tanh')),
}

function caseOf(name: string, dims: number[], x: Tensor = createNoise(dims, 6, 0.2)): Case {
  return {
    name: `GeluQuantize ${name} [${dims.join(', ')}]`,
    tolerance: CODES,
    inputs: { x },
    build: (inputs, operators, half) => nameOperands([operators.geluQuantize(half(inputs.x!), 16)]),
  }
}

export const cases: readonly Case[] = [
  caseOf('of Large', [2, 7, 9728]),
  caseOf('of nano', [1, 3, 768]),
  caseOf('of eight values', [1, 1, 8]),
  {
    name: 'GeluQuantize of image and text [2, 7 and 3, 9728]',
    tolerance: CODES,
    inputs: { x: createNoise([2, 7, 9728], 6, 0.2), y: createNoise([2, 3, 9728], 7, 0.2) },
    build: (inputs, operators, half) =>
      nameOperands([inputs.x!, inputs.y!].map((x) => operators.geluQuantize(half(x), 16))),
  },
  caseOf(
    'at 60,000 and NaN',
    [1, 4, 6144],
    editTensor(createNoise([1, 4, 6144], 6, 1000), (data) => {
      data[6144 + 3] = Number.NaN
      data.fill(0, 2 * 6144, 3 * 6144)
    }),
  ),
]
