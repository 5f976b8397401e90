// The FP8 operators as nodes that onnxruntime runs with kernels/dist/liboctet-kernels.so: domain `octet`, one a kernel.
import type { Attribute, Shape, Value } from '../graph/graph.ts'
import type { Operand } from '../graph/layer-types.ts'
import * as ops from '../graph/ops.ts'
import { cuda } from './cuda.ts'
import { type Fp8Operators, fp8Lowering } from './cuda-fp8.ts'

export const KERNEL_DOMAIN = 'octet'

type Result = Pick<Value, 'dtype' | 'shape'>

function node(
  op: string,
  inputs: (Value | null)[],
  results: (Result | null)[],
  attributes: Record<string, Attribute> = {},
) {
  return inputs[0]!.graph.node(op, inputs, results, attributes, KERNEL_DOMAIN)
}

/** Codes and scales of rows, as an operator gives them. */
const rows = (shape: Shape): [Result, Result] => [
  { dtype: 'float8e4m3fn', shape },
  { dtype: 'float32', shape: shape.slice(0, -1) },
]
const operand = (codes: Value, rowScales: Value): Operand => ({ ...codes, rowScales })

/** `portable` makes Hopper go the way of the other GPUs, for tests. */
export const kernelOperators = ({ portable = false } = {}): Fp8Operators => ({
  modulateQuantise(stream, branches, modulation, modulations, { factor, epsilon }) {
    const changed = branches.length > 0 ? { dtype: stream.dtype, shape: stream.shape } : null
    const results = [changed, ...modulations.flatMap(() => rows(stream.shape))]
    const [sum, ...quantised] = node(
      'ModulateQuantise',
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
    const normed = modulations.map((_, i) => operand(quantised[2 * i]!, quantised[2 * i + 1]!))
    return { sum: changed ? sum! : stream, normed }
  },
  linear(x, { codes, scales }, bias, factor) {
    const shape = x.shape.with(-1, codes.shape[0]!)
    // onnxruntime multiplies the scales once, as it opens the graph.
    const scaled = factor === 1 ? scales : ops.multiply(scales, ops.scalar(scales, factor))
    const inputs = [x, x.rowScales!, codes, scaled, bias]
    return node('Linear', inputs, [{ dtype: 'float16', shape }], portable ? { portable: 1 } : {})[0]!
  },
  geluQuantise(x, factor) {
    const [codes, scales] = node('GeluQuantise', [x], rows(x.shape), { factor: { float: factor } })
    return operand(codes!, scales!)
  },
  attend(image, text, epsilon) {
    const norms = [image.queryNorm, image.keyNorm, text?.queryNorm ?? null, text?.keyNorm ?? null]
    const bytes = (last: string): Result => ({ dtype: 'uint8', shape: ['B', 'heads', 'tiles', last] })
    const laidOut = node(
      'JoinHeads',
      [image.qkv, text?.qkv ?? null, ...norms],
      [bytes('query'), bytes('key'), bytes('value'), { dtype: 'float32', shape: [1] }],
      { epsilon: { float: epsilon } },
    )
    const [batch, length, width] = image.qkv.shape
    const tokens = text?.queryNorm ? `${length}+${text.qkv.shape[1]}` : length!
    const result = { dtype: 'float16', shape: [batch!, tokens, Number(width) / 3] } as const
    const inputs = [...laidOut, image.qkv, text?.qkv ?? null]
    return node('Attention', inputs, [result], portable ? { portable: 1 } : {})[0]!
  },
  quantiseParts(joint, like, rest) {
    const results = [...rows(like.shape), ...(rest ? rows(rest.shape) : [])]
    const parts = node('QuantiseParts', [joint, like], results)
    return Array.from({ length: parts.length / 2 }, (_, i) => operand(parts[2 * i]!, parts[2 * i + 1]!))
  },
  settled({ value, pending }) {
    if (!pending) return value
    const biased = ops.add(value, ops.cast(pending.bias, value.dtype))
    return pending.skip ? ops.add(pending.skip, biased) : biased
  },
  groupNorm({ value, pending }, weight, bias, { groups, epsilon, silu, keep }) {
    const { dtype, shape } = value
    const scratch: Result = { dtype: 'float32', shape: ['B', 'parts', 2, shape[3]!] }
    const inputs = [value, weight, bias, pending?.bias ?? null, pending?.skip ?? null]
    const results = [{ dtype, shape }, scratch, pending && keep ? { dtype, shape } : null]
    const attributes = { groups, epsilon: { float: epsilon }, silu: silu ? 1 : 0 }
    const [normed, , sum] = node('GroupNorm', inputs, results, attributes)
    return { map: pending && keep ? sum! : value, normed: normed! }
  },
})

export const cudaFp8 = fp8Lowering(kernelOperators(), cuda)
