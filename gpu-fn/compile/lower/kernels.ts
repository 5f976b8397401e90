// The FP8 operators as nodes of domain `octet`, which kernels/dist/liboctet-kernels.so implements.
import { type Attribute, GraphError, type Shape, type Value } from '../graph/graph.ts'
import type { Operand } from '../graph/layer-types.ts'
import * as ops from '../graph/ops.ts'
import { shapeOfCodes } from '../graph/packed.ts'
import { cuda } from './cuda.ts'
import { createFp8Lowering, type Fp8Operators } from './cuda-fp8.ts'

export const KERNEL_DOMAIN = 'octet'

type Result = Pick<Value, 'dtype' | 'shape'>

function addNode(
  op: string,
  inputs: (Value | null)[],
  results: (Result | null)[],
  attributes: Record<string, Attribute> = {},
) {
  return inputs[0]!.graph.node(op, inputs, results, attributes, KERNEL_DOMAIN)
}

/** Types and shapes of an operator's codes and row scales. */
const createRows = (shape: Shape): [Result, Result] => [
  { dtype: 'float8e4m3fn', shape },
  { dtype: 'float32', shape: shape.slice(0, -1) },
]
const createOperand = (codes: Value, rowScales: Value): Operand => ({ ...codes, rowScales })

function rowScalesOf({ rowScales }: Operand): Value {
  if (!rowScales) throw new GraphError('the input of an FP8 product is not quantized')
  return rowScales
}

export const kernelOperators: Fp8Operators = {
  modulateQuantize(stream, branches, modulation, modulations, { factor, epsilon }) {
    const changed = branches.length > 0 ? { dtype: stream.dtype, shape: stream.shape } : null
    const results = [changed, ...modulations.flatMap(() => createRows(stream.shape))]
    const [sum, ...quantized] = addNode(
      'ModulateQuantize',
      [stream, modulation, ...branches.map(({ value }) => value)],
      results,
      {
        shifts: modulations.map(({ shift }) => shift),
        scales: modulations.map(({ scale }) => scale),
        ...(changed && { gates: branches.map(({ gate }) => gate) }),
        branch_factor: { float: factor },
        epsilon: { float: epsilon },
      },
    )
    const normed = modulations.map((_, i) => createOperand(quantized[2 * i]!, quantized[2 * i + 1]!))
    return { sum: changed ? sum! : stream, normed }
  },
  unpack(weight, x) {
    const { packed, groupScales, scales } = weight
    const codes: Result = { dtype: 'float8e4m3fn', shape: shapeOfCodes(weight) }
    // x only orders execution. Without it, onnxruntime could schedule the unpacking of all layers at the start of a run.
    return { codes: addNode('UnpackFp8', [packed, groupScales, x], [codes])[0]!, scales }
  },
  linear(x, { codes, scales }, bias, factor) {
    const shape = x.shape.with(-1, codes.shape[0]!)
    const inputs = [x, rowScalesOf(x), codes, scales, bias]
    return addNode('Linear', inputs, [{ dtype: 'float16', shape }], { factor: { float: factor } })[0]!
  },
  geluQuantize(x, factor) {
    const [codes, scales] = addNode('GeluQuantize', [x], createRows(x.shape), { factor: { float: factor } })
    return createOperand(codes!, scales!)
  },
  attend(image, text, epsilon) {
    const norms = [image.queryNorm, image.keyNorm, text?.queryNorm ?? null, text?.keyNorm ?? null]
    const bytes = (last: string): Result => ({ dtype: 'uint8', shape: ['B', 'heads', 'tiles', last] })
    const laidOut = addNode(
      'QkNormQuantize',
      [image.qkv, text?.qkv ?? null, ...norms],
      [bytes('query'), bytes('key'), bytes('value'), { dtype: 'float32', shape: [1] }],
      { epsilon: { float: epsilon } },
    )
    const [batch, length, width] = image.qkv.shape
    const tokens = text?.queryNorm ? `${length}+${text.qkv.shape[1]}` : length!
    const result = { dtype: 'float16', shape: [batch!, tokens, Number(width) / 3] } as const
    const inputs = [...laidOut, image.qkv, text?.qkv ?? null]
    return addNode('Attention', inputs, [result])[0]!
  },
  quantizeParts(joint, like, rest) {
    const results = [...createRows(like.shape), ...(rest ? createRows(rest.shape) : [])]
    const parts = addNode('QuantizeParts', [joint, like], results)
    return Array.from({ length: parts.length / 2 }, (_, i) => createOperand(parts[2 * i]!, parts[2 * i + 1]!))
  },
  addLowRank({ codes, scales, up, factors, down, rowPhases, columnPhases }) {
    const inputs = [codes, scales, up, factors, down, rowPhases, columnPhases]
    const results = [codes, scales].map(({ dtype, shape }) => ({ dtype, shape }))
    const [sum, sumScales] = addNode('AddLowRank', inputs, results)
    return { codes: sum!, scales: sumScales! }
  },
  applyDeferred({ value, deferred }) {
    if (!deferred) return value
    const biased = ops.add(value, ops.cast(deferred.bias, value.dtype))
    return deferred.skip ? ops.add(deferred.skip, biased) : biased
  },
  groupNorm({ value, deferred }, weight, bias, { groups, epsilon, silu, keep }) {
    const { dtype, shape } = value
    const scratch: Result = { dtype: 'float32', shape: ['B', 'parts', 2, shape[3]!] }
    const inputs = [value, weight, bias, deferred?.bias ?? null, deferred?.skip ?? null]
    const results = [{ dtype, shape }, scratch, deferred && keep ? { dtype, shape } : null]
    const attributes = { groups, epsilon: { float: epsilon }, silu: silu ? 1 : 0 }
    const [normed, , sum] = addNode('GroupNorm', inputs, results, attributes)
    return { map: deferred && keep ? sum! : value, normed: normed! }
  },
}

export const cudaFp8 = createFp8Lowering(kernelOperators, cuda)
