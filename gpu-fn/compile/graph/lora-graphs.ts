// Graphs that add a low-rank update to a weight: weight + up · (factors ∘ down). A LoRA's package contains them, so that the same operators
// run on a CPU and on a GPU. N rows · K columns · R rank, the sum over all adapters
import type { FactorDtype } from '../../manifest.ts'
import { decodeTable, FP8_MAX } from '../checkpoint/formats/fp8.ts'
import { Graph, type Value } from './graph.ts'
import * as ops from './ops.ts'

/** Factors of a low-rank update in float32: up [R, N], factors [R, 1], down [R, K]. */
export type Factors = { readonly up: Value; readonly factors: Value; readonly down: Value }

/** Adds the inputs `up` and `down` of type `dtype`, and `factors`. */
function addFactorInputs(graph: Graph, dtype: FactorDtype): Factors {
  return {
    up: ops.cast(graph.input('up', dtype, ['R', 'N']), 'float32'),
    factors: graph.input('factors', 'float32', ['R', 1]),
    down: ops.cast(graph.input('down', dtype, ['R', 'K']), 'float32'),
  }
}

/** Update [N, K] in float32. */
function addLowRankUpdate({ up, factors, down }: Factors): Value {
  const update = { dtype: 'float32', shape: [up.shape[1]!, down.shape[1]!] } as const
  const inputs = [up, ops.multiply(down, factors)]
  return up.graph.node('FusedMatMul', inputs, [update], { transA: 1 }, 'com.microsoft')[0]!
}

/** Low-rank update of a dense weight. Inputs: weight [N, K] and factors. Output: updated [N, K] in `dtype`, rounded once. */
export function createDenseUpdate(dtype: 'float16' | 'float32', factors: FactorDtype): Graph {
  const graph = new Graph(`lora_${dtype}`)
  const weight = graph.input('weight', dtype, ['N', 'K'])
  const sum = ops.add(ops.cast(weight, 'float32'), addLowRankUpdate(addFactorInputs(graph, factors)))
  graph.output('updated', ops.cast(sum, dtype))
  return graph
}

const MIDDLE = 128
/** Maximum absolute exponent of the power of two between an old and a new scale; larger ones exceed the range of float16. */
const INTEGER_GROWTH = 24

/**
 * `createFp8Update` for block-quantized 8-bit integers (checkpoint/formats/integer-blocks.ts): inputs codes uint8 [N, K] and scales [N, K ÷ block] of
 * type `dtype`. A new scale is the old one times a power of two, which depends on the unrounded block; the sum is dithered.
 */
export function createIntegerUpdate(dtype: 'float16' | 'float32', factors: FactorDtype): Graph {
  const graph = new Graph(`lora_uint8_${dtype}`)
  const codes = graph.input('codes', 'uint8', ['N', 'K'])
  const scales = graph.input('scales', dtype, ['N', 'blocks'])
  const inputs = addFactorInputs(graph, factors)
  const phases = phasesOf(
    graph.input('row_phases', 'float32', ['N', 1]),
    graph.input('column_phases', 'float32', [1, 'K']),
  )
  const lengths = ops.concat([ops.shapeOf(scales, 0, 2), ops.int64(scales, [-1])], 0, 3)
  const reshapeToBlocks = (x: Value) => ops.reshapeTo(x, lengths, ['N', 'blocks', 'block'])
  const reshapePerBlock = (x: Value) => ops.reshape(x, ['N', 'blocks', 1])

  const old = reshapePerBlock(ops.cast(scales, 'float32')) // [N, blocks, 1]
  const values = ops.subtract(reshapeToBlocks(ops.cast(codes, 'float32')), ops.scalar(old, MIDDLE))
  const sum = ops.add(values, ops.divide(reshapeToBlocks(addLowRankUpdate(inputs)), old)) // [N, blocks, block]
  const largest = largestOf(unary('Abs', sum), 2, ['N', 'blocks', 1])
  const growth = growthOf(ops.multiply(largest, ops.scalar(largest, 1 / MIDDLE)), INTEGER_GROWTH)
  const index = ops.add(growth, ops.scalar(growth, INTEGER_GROWTH))
  const count = 2 * INTEGER_GROWTH + 1
  const scaled = ops.multiply(sum, powerOf(index, INTEGER_GROWTH, count, -1)) // at most 128 in magnitude
  const rounded = unary('Floor', ops.add(scaled, reshapeToBlocks(phases)))
  const code = ops.clip(ops.add(rounded, ops.scalar(rounded, MIDDLE)), 0, 2 * MIDDLE - 1)
  graph.output('updated', ops.cast(ops.reshapeTo(code, ops.shapeOf(codes, 0, 2), ['N', 'K']), 'uint8'))
  const grown = ops.reshape(ops.multiply(old, powerOf(index, INTEGER_GROWTH, count, 1)), ['N', 'blocks'])
  graph.output('updated_scales', ops.cast(grown, dtype))
  return graph
}

/** Exponents of E4M3: index 0 is -6, which subnormals share. */
const EXPONENTS = { first: -6, count: 15 }
/** Maximum magnitude of the exponent of the power of two by which a row's scale changes. */
const GROWTH = 64
/** The largest code with a finite value. */
const MAX_CODE = 126
/** The part of a step in which rounding is random. 0 is rounding to nearest. */
const DITHER = 0.5
/** Exceeds the error of a computed logarithm. A magnitude just above a power of two has the same code with the lower exponent. */
const LOG_ERROR = 1e-5

/** An FP8 weight, codes [N, K] and scales [N, 1], its update, and phases [N, 1] and [1, K] in [0, 1). Values are code × scale. */
export type Fp8Weight = Factors & {
  readonly codes: Value
  readonly scales: Value
  readonly rowPhases: Value
  readonly columnPhases: Value
}
/** Adds an update to an FP8 weight: the new codes and scales. */
export type AddLowRank = (weight: Fp8Weight) => { readonly codes: Value; readonly scales: Value }

/**
 * Low-rank update of an FP8 weight. Inputs: codes, scales, factors and phases. Outputs: `updated` and `updated_scales`. In every update graph,
 * outputs may alias the weight: except in elementwise nodes, all reads precede all writes.
 */
export function createFp8Update(addLowRank: AddLowRank, factors: FactorDtype): Graph {
  const graph = new Graph('lora_float8e4m3fn')
  const sum = addLowRank({
    codes: graph.input('codes', 'uint8', ['N', 'K']),
    scales: graph.input('scales', 'float32', ['N', 1]),
    ...addFactorInputs(graph, factors),
    rowPhases: graph.input('row_phases', 'float32', ['N', 1]),
    columnPhases: graph.input('column_phases', 'float32', [1, 'K']),
  })
  graph.output('updated', sum.codes)
  graph.output('updated_scales', sum.scales)
  return graph
}

/**
 * The codes are on the grid of E4M3, and most updates are smaller than half a step of it: rounding to nearest would drop those of a weak
 * adapter. The sum is therefore dithered: from a quarter of a step to three quarters, it is rounded up with a probability that rises from 0
 * to 1. Dithering over a whole step would be unbiased for any update, but adds more noise. The phases are the random numbers, as inputs that
 * are equal on every device. A new scale is the old one times a power of two, which the magnitude of the unrounded row determines. The
 * base's values thus stay on the grid, and only the update is rounded.
 */
export const addLowRank: AddLowRank = ({ codes, scales, rowPhases, columnPhases, ...factors }) => {
  const [rows, columns] = codes.shape as [string | number, string | number]
  const values = ops.gather(ops.float32(codes, replaceNaN(decodeTable)), ops.cast(codes, 'int64')) // [N, K]
  const sum = ops.add(values, ops.divide(addLowRankUpdate(factors), scales)) // [N, K]

  const magnitude = unary('Abs', sum)
  const largest = largestOf(magnitude, 1, [rows, 1])
  const growth = growthOf(ops.multiply(largest, ops.scalar(sum, 1 / FP8_MAX)), GROWTH)
  const index = ops.add(growth, ops.scalar(growth, GROWTH)) // [N, 1]
  const scaled = ops.multiply(magnitude, powerOf(index, GROWTH, 2 * GROWTH + 1, -1)) // at most 448

  const exponent = ops.clip(
    unary('Floor', ops.subtract(log2(scaled), ops.scalar(scaled, LOG_ERROR + EXPONENTS.first))),
    0,
    EXPONENTS.count - 1,
  )
  const steps = ops.multiply(scaled, powerOf(exponent, -EXPONENTS.first + 3, EXPONENTS.count, -1))
  const rounded = unary('Floor', ops.add(steps, phasesOf(rowPhases, columnPhases))) // 0 to 16
  const code = ops.clip(ops.add(rounded, ops.multiply(exponent, ops.scalar(exponent, 8))), 0, MAX_CODE)
  const [negative] = codes.graph.node('Less', [sum, ops.scalar(sum, 0)], [{ dtype: 'bool', shape: [rows, columns] }])
  const sign = ops.multiply(ops.cast(negative!, 'float32'), ops.scalar(sum, 128))
  return {
    codes: ops.cast(ops.add(code, sign), 'uint8'),
    scales: ops.multiply(scales, powerOf(index, GROWTH, 2 * GROWTH + 1, 1)),
  }
}

function largestOf(x: Value, axis: number, shape: Value['shape']): Value {
  const inputs = [x, ops.int64(x, [axis])]
  return x.graph.node('ReduceMax', inputs, [{ dtype: 'float32', shape }], { keepdims: 1 })[0]!
}

/** Exponent of the smallest power of two ≥ x, clipped to ±`max`. */
const growthOf = (x: Value, max: number) => ops.clip(unary('Ceil', log2(x)), -max, max)

const unary = (op: string, x: Value): Value => x.graph.node(op, [x], [{ dtype: x.dtype, shape: x.shape }])[0]!

const log2 = (x: Value) => ops.multiply(unary('Log', x), ops.scalar(x, Math.LOG2E))

/** 2^(sign · (index - bias)), exact, from a table of `count` powers. */
const powerOf = (index: Value, bias: number, count: number, sign: 1 | -1) =>
  ops.gather(
    ops.float32(
      index,
      Array.from({ length: count }, (_, i) => 2 ** (sign * (i - bias))),
    ),
    ops.cast(index, 'int64'),
  )

/** (row phase + column phase) modulo 1, scaled to the part `DITHER` in the middle of [0, 1) [N, K]. */
function phasesOf(rows: Value, columns: Value): Value {
  const sum = ops.add(rows, columns)
  const phase = ops.subtract(sum, unary('Floor', sum))
  return ops.add(ops.multiply(phase, ops.scalar(phase, DITHER)), ops.scalar(phase, (1 - DITHER) / 2))
}

/** The two codes of NaN do not occur in weights. */
const replaceNaN = (table: Float32Array) => [...table].map((value) => (Number.isNaN(value) ? 0 : value))
