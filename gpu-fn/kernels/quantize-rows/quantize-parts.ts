// QuantizeParts: quantization of a joint sequence in two parts.
import type { Value } from '../../compile/graph/graph.ts'
import * as ops from '../../compile/graph/ops.ts'
import type { Fp8Operators } from '../../compile/lower/cuda-fp8.ts'
import { quantize } from '../definition/quantize.ts'
import { type Case, CODES, createCodes, createNoise, nameOperands } from '../definition/test-case.ts'

export const definition: Pick<Fp8Operators, 'quantizeParts'> = {
  quantizeParts(joint, like, rest) {
    const length = ops.shapeOf(like, 1, 2)
    const [zero, far] = [0, Number.MAX_SAFE_INTEGER].map((at) => ops.int64(joint, [at])) as [Value, Value]
    const first = quantize(ops.slice(joint, zero, length, 1, like.shape[1]!))
    return rest ? [first, quantize(ops.slice(joint, length, far, 1, rest.shape[1]!))] : [first]
  },
}

function caseOf(batch: number, first: number, second: number, width: number): Case {
  return {
    name: `QuantizeParts ${batch} × (${first} + ${second}) × ${width}`,
    tolerance: CODES,
    inputs: {
      joint: createNoise([batch, first + second, width], 10),
      like: createCodes([batch, first, 16], 11),
      rest: createCodes([batch, Math.max(second, 1), 16], 12),
    },
    build(inputs, operators, half) {
      const width = inputs.joint!.shape[2]!
      const reshapeRow = (x: Value) => ({ ...x, shape: x.shape.with(2, width) })
      const like = reshapeRow(ops.cast(inputs.like!, 'float8e4m3fn'))
      return nameOperands(
        operators.quantizeParts(half(inputs.joint!), like, second > 0 ? reshapeRow(inputs.rest!) : null),
      )
    },
  }
}

export const cases: readonly Case[] = [caseOf(2, 5, 3, 2432), caseOf(1, 129, 0, 1536), caseOf(1, 1, 1, 192)]
