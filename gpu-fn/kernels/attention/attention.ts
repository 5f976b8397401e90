// QkNormQuantize and Attention: attention over one stream or two, with RMS-normalized heads.
import type { Value } from '../../compile/graph/graph.ts'
import * as ops from '../../compile/graph/ops.ts'
import type { Fp8Operators, Projections } from '../../compile/lower/cuda-fp8.ts'
import { computeLargest, constant, maximum } from '../definition/quantize.ts'
import { type Case, createNoise, editTensor } from '../definition/test-case.ts'

/** The code of a normalized value equal to its weight: a sum of 64 products of such values fits float16. */
const LARGEST_CODE = 28
const DEPTH = 64

function normalize(x: Value, weight: Value, factor: Value, epsilon: number): Value {
  const [batch, tokens, width] = x.shape
  const heads = ops.reshape(x, [batch!, tokens!, Number(width) / DEPTH, DEPTH])
  const codes = ops.cast(ops.multiply(ops.rmsNormalization(heads, weight, epsilon), factor), 'float8e4m3fn')
  return ops.reshape(ops.divide(ops.cast(codes, 'float32'), factor), x.shape)
}

/**
 * Rounds to four significant bits, as E4M3 does within its range, by Veltkamp's splitting. The kernels' scales move nearly
 * all values into that range.
 */
function roundSignificand(x: Value): Value {
  const scaled = ops.multiply(x, constant(x, 2 ** 20 + 1))
  return ops.subtract(scaled, ops.subtract(scaled, x))
}

/** The factor from normalized queries or keys of both streams to codes. */
function computeCodeFactor(norms: readonly (Value | null)[]): Value {
  const [first, ...others] = norms.filter((norm) => norm !== null).map((norm) => computeLargest(norm, [0]))
  const max = others.reduce(maximum, first!)
  return ops.divide(constant(max, LARGEST_CODE), max)
}

function splitProjections(
  { qkv, queryNorm, keyNorm }: Projections,
  queryFactor: Value,
  keyFactor: Value,
  epsilon: number,
) {
  const count = queryNorm ? 3 : 2
  const width = Number(qkv.shape[2]) / count
  const split = ops.split(qkv, new Array(count).fill(width), 2)
  const [k, v] = split.slice(-2) as [Value, Value]
  const q = queryNorm && normalize(split[0]!, queryNorm, queryFactor, epsilon)
  return { q, k: normalize(k, keyNorm, keyFactor, epsilon), v: roundSignificand(v) }
}

export const definition: Pick<Fp8Operators, 'attend'> = {
  attend(image, text, epsilon) {
    const queryFactor = computeCodeFactor([image.queryNorm, text?.queryNorm ?? null])
    const keyFactor = computeCodeFactor([image.keyNorm, text?.keyNorm ?? null])
    const own = splitProjections(image, queryFactor, keyFactor, epsilon)
    const other = text && splitProjections(text, queryFactor, keyFactor, epsilon)
    const join = (a: Value, b: Value | null | undefined) => (b ? ops.concat([a, b], 1) : a)
    const heads = Number(own.k.shape[2]) / DEPTH
    return ops.multiHeadAttention(join(own.q!, other?.q), join(own.k, other?.k), join(own.v, other?.v), { heads })
  },
}

/**
 * RMS error of a probability: 2.7 % from rounding to E4M3, 3.2 % with Hopper's linear exponentials. The mean of random values has the
 * same relative error.
 */
const ROUNDED = { all: 4e-2, row: 1e-1 }
/** Tolerance for equal probabilities, whose rounding errors cancel. */
const EQUAL = { all: 4e-3, row: 2e-2 }

type Tokens = {
  batch?: number
  image: number
  text?: number
  heads: number
  textQueries?: boolean
  scale?: number
  /** Modifies the projections of an image token: query, key and value, each of length `width`. Token indices run over all samples. */
  edit?: (projection: Float32Array, token: number, width: number) => void
  tolerance?: Case['tolerance']
}

function caseOf(
  name: string,
  { batch = 1, image, text = 0, heads, textQueries = true, scale = 1, edit, tolerance = ROUNDED }: Tokens,
): Case {
  const width = heads * DEPTH
  const parts = textQueries ? 3 : 2
  return {
    name: `QkNormQuantize, Attention ${name} ${batch} × (${image} + ${text}${textQueries ? '' : ' without queries'}) × ${heads} heads`,
    tolerance,
    inputs: {
      image: editTensor(createNoise([batch, image, 3 * width], 7, scale), (data) => {
        const projection = (token: number) => data.subarray(token * 3 * width, (token + 1) * 3 * width)
        for (let i = 0; edit && i < batch * image; i++) edit(projection(i), i, width)
      }),
      ...(text > 0 && { text: createNoise([batch, text, parts * width], 8, scale) }),
      norms: createNoise([4, 64], 9, 0.5),
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
  caseOf('one token', { image: 1, heads: 1, tolerance: EQUAL }),
  caseOf('one more than tiles', { image: 257, heads: 2 }),
  caseOf('joint', { batch: 2, image: 96, text: 77, heads: 3 }),
  caseOf('joint, odd', { image: 191, text: 333, heads: 2 }),
  caseOf('last block', { batch: 2, image: 300, text: 154, heads: 2, textQueries: false }),
  caseOf('many tiles', { image: 1500, text: 333, heads: 3 }),
  caseOf('of queries of zero', {
    ...{ image: 1100, heads: 2, tolerance: EQUAL },
    edit: (projection, _, width) => projection.fill(0, 0, width),
  }),
  caseOf('of tiles of unequal values', {
    ...{ image: 700, text: 33, heads: 2 },
    edit: (projection, token) => projection.set(projection.map((x) => x * 2 ** (token / 64 - 5))),
  }),
  caseOf('with NaN in a query', {
    ...{ image: 70, text: 5, heads: 2 },
    edit(projection, token) {
      if (token === 33) projection[0] = Number.NaN
    },
  }),
  caseOf('with NaN in a value', {
    ...{ batch: 2, image: 140, text: 5, heads: 2 },
    edit(projection, token, width) {
      if (token === 33) projection[2 * width + 5] = Number.NaN
    },
  }),
  caseOf('with infinity in a value', {
    ...{ batch: 2, image: 300, text: 5, heads: 2 },
    edit(projection, token, width) {
      if (token === 200) projection[2 * width + 5] = Number.POSITIVE_INFINITY
    },
  }),
  caseOf('at 20,000', { image: 130, text: 9, heads: 2, scale: 5000 }),
]
