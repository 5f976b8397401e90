// ModulateQuantize: deferred residual branches, LayerNorm, modulation and quantization.
import type { Value } from '../../compile/graph/graph.ts'
import * as ops from '../../compile/graph/ops.ts'
import type { Fp8Operators } from '../../compile/lower/cuda-fp8.ts'
import type { Tensor } from '../../runtime/session.ts'
import { constant, quantize } from '../definition/quantize.ts'
import { type Case, CODES, createNoise, editTensor, nameOperands } from '../definition/test-case.ts'

export const definition: Pick<Fp8Operators, 'modulateQuantize'> = {
  modulateQuantize(stream, branches, modulation, modulations, { factor, epsilon }) {
    const width = Number(stream.shape[2])
    const vector = (at: number) => {
      const [start, end] = [at, at + width].map((value) => ops.int64(modulation, [value])) as [Value, Value]
      return ops.reshape(ops.slice(modulation, start, end, 1, width), [modulation.shape[0]!, 1, width])
    }
    const applyGate = ({ value, gate }: (typeof branches)[number]) =>
      ops.multiply(ops.multiply(value, vector(gate)), constant(value, factor))
    const sum = branches.reduce((x, branch) => ops.add(x, applyGate(branch)), stream)
    const normed = modulations.map(({ shift, scale }) =>
      quantize(ops.layerNormalization(sum, vector(scale), vector(shift), epsilon)),
    )
    return { sum, normed }
  },
}

const WIDE: [number, number, number] = [1, 5, 2432]

function caseOf(
  name: string,
  [batch, tokens, width]: [number, number, number],
  options: { branches: number; modulations: number; stream?: Tensor },
): Case {
  const { branches, modulations } = options
  const count = 2 * modulations + branches
  const names = Array.from({ length: branches }, (_, i) => `branch${i}`)
  return {
    name: `ModulateQuantize ${name} [${batch}, ${tokens}, ${width}]`,
    tolerance: CODES,
    inputs: {
      stream: options.stream ?? createNoise([batch, tokens, width], 1, 3),
      modulation: createNoise([batch, count * width], 2),
      ...Object.fromEntries(names.map((branch, i) => [branch, createNoise([batch, tokens, width], 3 + i, 2)])),
    },
    build(inputs, operators, half) {
      const { sum, normed } = operators.modulateQuantize(
        half(inputs.stream!),
        names.map((branch, i) => ({ value: half(inputs[branch]!), gate: (2 * modulations + i) * width })),
        inputs.modulation!,
        Array.from({ length: modulations }, (_, i) => ({ shift: 2 * i * width, scale: (2 * i + 1) * width })),
        { factor: 16, epsilon: 1e-6 / 256 },
      )
      return { ...(branches > 0 && { sum: ops.cast(sum, 'float32') }), ...nameOperands(normed) }
    },
  }
}

/** One node with two streams, each with its own offsets in the shared modulation. */
function pairOf(name: string, [batch, tokens, width]: [number, number, number], texts: number): Case {
  const streams = [tokens, texts]
  return {
    name: `ModulateQuantize ${name} [${batch}, ${tokens} and ${texts}, ${width}]`,
    tolerance: CODES,
    inputs: {
      modulation: createNoise([batch, 6 * width], 2),
      ...Object.fromEntries(streams.map((count, i) => [`stream ${i}`, createNoise([batch, count, width], 3 + i, 3)])),
      ...Object.fromEntries(streams.map((count, i) => [`branch ${i}`, createNoise([batch, count, width], 5 + i, 2)])),
    },
    build(inputs, operators, half) {
      const results = streams.map((_, i) => {
        const [shift, scale, gate] = [3 * i, 3 * i + 1, 3 * i + 2].map((at) => at * width) as [number, number, number]
        const branches = [{ value: half(inputs[`branch ${i}`]!), gate }]
        const options = { factor: 16, epsilon: 1e-6 / 256 }
        const stream = half(inputs[`stream ${i}`]!)
        return operators.modulateQuantize(stream, branches, inputs.modulation!, [{ shift, scale }], options)
      })
      const sums = results.map(({ sum }, i) => [`sum ${i}`, ops.cast(sum, 'float32')])
      return { ...Object.fromEntries(sums), ...nameOperands(results.flatMap(({ normed }) => normed)) }
    },
  }
}

export const cases: readonly Case[] = [
  pairOf('of image and text', [2, 301, 2432], 37),
  pairOf('of image and text, nano', [1, 64, 192], 77),
  caseOf('of Large', [2, 37, 2432], { branches: 1, modulations: 1 }),
  caseOf('of Medium, dual', [2, 19, 1536], { branches: 2, modulations: 2 }),
  caseOf('of nano, first block', [1, 3, 192], { branches: 0, modulations: 2 }),
  caseOf('one token', [1, 1, 2560], { branches: 1, modulations: 1 }),
  caseOf('of eight values', [3, 2, 8], { branches: 2, modulations: 1 }),
  caseOf('at 60,000', WIDE, { branches: 1, modulations: 1, stream: createNoise(WIDE, 1, 12_000) }),
  caseOf('with a row of zeros and one of NaN', WIDE, {
    branches: 0,
    modulations: 1,
    stream: editTensor(createNoise(WIDE, 1), (data) => {
      data.fill(0, 2432, 2 * 2432)
      data[3 * 2432 + 7] = Number.NaN
    }),
  }),
]
