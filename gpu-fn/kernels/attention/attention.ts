// QkNormQuantize and Attention: attention over one stream or two, with RMS-normalized heads.
import type { Value } from '../../compile/graph/graph.ts'
import * as ops from '../../compile/graph/ops.ts'
import type { Fp8Operators, Projected } from '../../compile/lower/cuda-fp8.ts'
import { constant, largest, maximum } from '../definition/quantize.ts'
import { type Case, edited, noise } from '../definition/test-case.ts'

/** The code of a normalized value equal to its weight: a sum of 64 products of such values fits float16. */
const LARGEST_CODE = 28
const DEPTH = 64

function normalized(x: Value, weight: Value, factor: Value, epsilon: number): Value {
  const [batch, tokens, width] = x.shape
  const heads = ops.reshape(x, [batch!, tokens!, Number(width) / DEPTH, DEPTH])
  const codes = ops.cast(ops.multiply(ops.rmsNormalization(heads, weight, epsilon), factor), 'float8e4m3fn')
  return ops.reshape(ops.divide(ops.cast(codes, 'float32'), factor), x.shape)
}

/** The factor from normalized queries or keys of both streams to codes. */
function codeFactor(norms: readonly (Value | null)[]): Value {
  const [first, ...others] = norms.filter((norm) => norm !== null).map((norm) => largest(norm, [0]))
  const most = others.reduce(maximum, first!)
  return ops.divide(constant(most, LARGEST_CODE), most)
}

function parts({ qkv, queryNorm, keyNorm }: Projected, queryFactor: Value, keyFactor: Value, epsilon: number) {
  const count = queryNorm ? 3 : 2
  const width = Number(qkv.shape[2]) / count
  const split = ops.split(qkv, new Array(count).fill(width), 2)
  const [k, v] = split.slice(-2) as [Value, Value]
  const q = queryNorm && normalized(split[0]!, queryNorm, queryFactor, epsilon)
  return { q, k: normalized(k, keyNorm, keyFactor, epsilon), v }
}

export const definition: Pick<Fp8Operators, 'attend'> = {
  attend(image, text, epsilon) {
    const queryFactor = codeFactor([image.queryNorm, text?.queryNorm ?? null])
    const keyFactor = codeFactor([image.keyNorm, text?.keyNorm ?? null])
    const own = parts(image, queryFactor, keyFactor, epsilon)
    const other = text && parts(text, queryFactor, keyFactor, epsilon)
    const join = (a: Value, b: Value | null | undefined) => (b ? ops.concat([a, b], 1) : a)
    const heads = Number(own.k.shape[2]) / DEPTH
    return ops.multiHeadAttention(join(own.q!, other?.q), join(own.k, other?.k), join(own.v, other?.v), { heads })
  },
}

const TOLERANCE = { all: 4e-3, row: 2e-2 }

type Tokens = {
  batch?: number
  image: number
  text?: number
  heads: number
  textQueries?: boolean
  scale?: number
  /** A token whose query has NaN. */
  broken?: number
}

function caseOf(
  name: string,
  { batch = 1, image, text = 0, heads, textQueries = true, scale = 1, broken }: Tokens,
): Case {
  const width = heads * 64
  const parts = textQueries ? 3 : 2
  return {
    name: `QkNormQuantize, Attention ${name} ${batch} × (${image} + ${text}${textQueries ? '' : ' without queries'}) × ${heads} heads`,
    tolerance: TOLERANCE,
    inputs: {
      image: edited(noise([batch, image, 3 * width], 7, scale), (data) => {
        if (broken !== undefined) data[broken * 3 * width] = Number.NaN
      }),
      ...(text > 0 && { text: noise([batch, text, parts * width], 8, scale) }),
      norms: noise([4, 64], 9, 0.5),
    },
    build(inputs, operators, half) {
      const norm = (i: number) => {
        const [start, end] = [i, i + 1].map((at) => ops.int64(inputs.norms!, [at])) as [Value, Value]
        return ops.reshape(
          ops.add(ops.slice(inputs.norms!, start, end, 0, 1), ops.float32(inputs.norms!, [1], [])),
          [64],
        )
      }
      const own = { qkv: half(inputs.image!), queryNorm: norm(0), keyNorm: norm(1) }
      const other = inputs.text && { qkv: half(inputs.text), queryNorm: textQueries ? norm(2) : null, keyNorm: norm(3) }
      return { y: ops.cast(operators.attend(own, other ?? null, 1e-6), 'float32') }
    },
  }
}

export const cases: readonly Case[] = [
  caseOf('a tile', { image: 128, heads: 1 }),
  caseOf('less than a tile', { image: 3, heads: 3 }),
  caseOf('one token', { image: 1, heads: 1 }),
  caseOf('one more than tiles', { image: 257, heads: 2 }),
  caseOf('joint', { batch: 2, image: 96, text: 77, heads: 3 }),
  caseOf('joint, odd', { image: 191, text: 333, heads: 2 }),
  caseOf('last block', { batch: 2, image: 300, text: 154, heads: 2, textQueries: false }),
  caseOf('many tiles', { image: 1500, text: 333, heads: 3 }),
  caseOf('with NaN in a query', { image: 70, text: 5, heads: 2, broken: 33 }),
  caseOf('at 20,000', { image: 130, text: 9, heads: 2, scale: 5000 }),
]
