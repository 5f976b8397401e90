// The operators of gpu-fn/kernels in ONNX operators and float32: the definition that the kernels are tested against. With `reference` as its
// layers, a model runs on the CPU with the same roundings to FP8 as on FP8 tensor cores.
import { cpu } from '../../../gpu-fn/compile/lower/cpu.ts'
import { type Fp8Operators, fp8Lowering } from '../../../gpu-fn/compile/lower/cuda-fp8.ts'
import type { Case } from './case.ts'
import * as attention from './operators/attention.ts'
import * as geluQuantize from './operators/gelu-quantize.ts'
import * as groupNorm from './operators/group-norm.ts'
import * as linear from './operators/linear.ts'
import * as modulateQuantize from './operators/modulate-quantize.ts'
import * as quantizeParts from './operators/quantize-parts.ts'

/** Each operator's definition and test cases. */
const OPERATORS = [modulateQuantize, linear, geluQuantize, quantizeParts, groupNorm, attention]

export const operators: Fp8Operators = {
  ...modulateQuantize.definition,
  ...linear.definition,
  ...geluQuantize.definition,
  ...quantizeParts.definition,
  ...groupNorm.definition,
  ...attention.definition,
}

export const CASES: readonly Case[] = OPERATORS.flatMap(({ cases }) => cases)

export const reference = fp8Lowering(operators, cpu)
