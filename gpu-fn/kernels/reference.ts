// The definitions of the kernels in ONNX operators and float32, against which the kernels are tested. With the lowering `reference`, a model
// runs on the CPU with the same roundings to FP8 as on FP8 tensor cores.
import { cpu } from '../compile/lower/cpu.ts'
import { createFp8Lowering, type Fp8Operators } from '../compile/lower/cuda-fp8.ts'
import * as addLowRank from './add-low-rank/add-low-rank.ts'
import * as attention from './attention/attention.ts'
import type { Case } from './definition/test-case.ts'
import * as groupNorm from './group-norm/group-norm.ts'
import * as linear from './linear/linear.ts'
import * as modulateQuantize from './modulate-quantize/modulate-quantize.ts'
import * as geluQuantize from './quantize-rows/gelu-quantize.ts'
import * as quantizeParts from './quantize-rows/quantize-parts.ts'
import * as unpackFp8 from './unpack-fp8/unpack-fp8.ts'

/** Each operator's definition and test cases. */
const OPERATORS = [modulateQuantize, unpackFp8, linear, geluQuantize, quantizeParts, groupNorm, attention, addLowRank]

export const operators: Fp8Operators = {
  ...modulateQuantize.definition,
  ...unpackFp8.definition,
  ...linear.definition,
  ...geluQuantize.definition,
  ...quantizeParts.definition,
  ...groupNorm.definition,
  ...attention.definition,
  ...addLowRank.definition,
}

export const CASES: readonly Case[] = OPERATORS.flatMap(({ cases }) => cases)

export const reference = createFp8Lowering(operators, cpu)
