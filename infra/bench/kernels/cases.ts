// The cases that each FP8 operator is tested on: odd sizes, extremes, rows with NaN. A case is a graph, once in the operators and once in
// their definition, and its inputs, which are float32 and narrowed inside.
import { decodeTable, encode } from '../../../gpu-fn/compile/checkpoint/fp8.ts'
import type { Value } from '../../../gpu-fn/compile/graph/graph.ts'
import type { FeatureMap, Operand } from '../../../gpu-fn/compile/graph/layer-types.ts'
import * as ops from '../../../gpu-fn/compile/graph/ops.ts'
import type { Lowering } from '../../../gpu-fn/compile/graph/scope.ts'
import type { Fp8Operators } from '../../../gpu-fn/compile/lower/cuda-fp8.ts'
import { gaussianNoise } from '../../../gpu-fn/pipeline/noise.ts'
import type { Tensor } from '../../../gpu-fn/runtime/session.ts'

export type Narrow = (x: Value) => Value
export type Case = {
  readonly name: string
  readonly inputs: Record<string, Tensor>
  /** The results that are compared; `half` narrows an input to what the operator takes, `layout` is that of its feature maps. */
  readonly build: (
    inputs: Record<string, Value>,
    operators: Fp8Operators,
    half: Narrow,
    layout: Pick<Lowering, 'featureMap' | 'planes'>,
  ) => Record<string, Value>
  /** Relative error that is allowed, over a result and in its worst row. */
  readonly tolerance: { readonly all: number; readonly row: number }
}

/** Codes may fall to the other side of a rounding, which is a sixteenth of that value. */
const CODES = { all: 5e-3, row: 2e-2 }
/** Hopper sums FP8 products with some 13 bits, which shows the more the longer the rows are. */
const HALVES = { all: 3e-3, row: 4e-3 }
const ATTENDED = { all: 4e-3, row: 2e-2 }

const noise = (dims: number[], seed: number, scale = 1): Tensor => {
  const data = gaussianNoise(
    seed,
    dims.reduce((n, dim) => n * dim),
  )
  return { data: scale === 1 ? data : data.map((x) => x * scale), dims }
}
/** Numbers that E4M3 has. */
const codes = (dims: number[], seed: number): Tensor => {
  const { data } = noise(dims, seed, 100)
  return { data: (data as Float32Array).map((x) => decodeTable[encode(x)]!), dims }
}
const positive = ({ data, dims }: Tensor): Tensor => ({
  data: (data as Float32Array).map((x) => Math.abs(x) + 0.01),
  dims,
})
const edited = ({ data, dims }: Tensor, edit: (data: Float32Array) => void): Tensor => {
  const copy = (data as Float32Array).slice()
  edit(copy)
  return { data: copy, dims }
}

const widened = ({ rowScales, ...x }: Operand): Value =>
  ops.multiply(ops.cast(x, 'float32'), ops.reshape(rowScales!, [...rowScales!.shape, 1]))
const named = (operands: Operand[]) => Object.fromEntries(operands.map((x, i) => [`part ${i}`, widened(x)]))

function modulate(
  name: string,
  [batch, tokens, width]: [number, number, number],
  options: { branches: number; modulations: number; stream?: Tensor },
): Case {
  const { branches, modulations } = options
  const count = 2 * modulations + branches
  const names = Array.from({ length: branches }, (_, i) => `branch${i}`)
  return {
    name: `ModulateQuantise ${name} [${batch}, ${tokens}, ${width}]`,
    tolerance: CODES,
    inputs: {
      stream: options.stream ?? noise([batch, tokens, width], 1, 3),
      modulation: noise([batch, count * width], 2),
      ...Object.fromEntries(names.map((branch, i) => [branch, noise([batch, tokens, width], 3 + i, 2)])),
    },
    build(inputs, operators, half) {
      const { sum, normed } = operators.modulateQuantise(
        half(inputs.stream!),
        names.map((branch, i) => ({ value: half(inputs[branch]!), gate: (2 * modulations + i) * width })),
        inputs.modulation!,
        Array.from({ length: modulations }, (_, i) => ({ shift: 2 * i * width, scale: (2 * i + 1) * width })),
        { factor: 16, epsilon: 1e-6 / 256 },
      )
      return { ...(branches > 0 && { sum: ops.cast(sum, 'float32') }), ...named(normed) }
    },
  }
}

function linear(name: string, [m, k, n]: [number, number, number], factor = 1, x = codes([1, m, k], 1)): Case {
  return {
    name: `Linear ${name} [${m}, ${k}] · [${n}, ${k}]`,
    tolerance: HALVES,
    inputs: {
      x,
      scales: positive(noise([1, m], 2, 0.01)),
      weight: codes([n, k], 3),
      weightScales: positive(noise([n], 4, 0.001)),
      bias: noise([n], 5),
    },
    build(inputs, operators, half) {
      const x: Operand = { ...ops.cast(inputs.x!, 'float8e4m3fn'), rowScales: inputs.scales! }
      const weight = { codes: ops.cast(inputs.weight!, 'float8e4m3fn'), scales: inputs.weightScales!, block: k }
      return { y: ops.cast(operators.linear(x, weight, half(inputs.bias!), factor), 'float32') }
    },
  }
}

function gelu(name: string, dims: number[], x: Tensor = noise(dims, 6, 0.2)): Case {
  return {
    name: `GeluQuantise ${name} [${dims.join(', ')}]`,
    tolerance: CODES,
    inputs: { x },
    build: (inputs, operators, half) => named([operators.geluQuantise(half(inputs.x!), 16)]),
  }
}

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

function attend(
  name: string,
  { batch = 1, image, text = 0, heads, textQueries = true, scale = 1, broken }: Tokens,
): Case {
  const width = heads * 64
  const parts = textQueries ? 3 : 2
  return {
    name: `JoinHeads, Attention ${name} ${batch} × (${image} + ${text}${textQueries ? '' : ' without queries'}) × ${heads} heads`,
    tolerance: ATTENDED,
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

function parts(batch: number, first: number, second: number, width: number): Case {
  return {
    name: `QuantiseParts ${batch} × (${first} + ${second}) × ${width}`,
    tolerance: CODES,
    inputs: {
      joint: noise([batch, first + second, width], 10),
      like: codes([batch, first, 16], 11),
      rest: codes([batch, Math.max(second, 1), 16], 12),
    },
    build(inputs, operators, half) {
      const width = inputs.joint!.shape[2]!
      const shaped = (x: Value) => ({ ...x, shape: x.shape.with(2, width) })
      const like = shaped(ops.cast(inputs.like!, 'float8e4m3fn'))
      return named(operators.quantiseParts(half(inputs.joint!), like, second > 0 ? shaped(inputs.rest!) : null))
    },
  }
}

type Maps = { groups?: number; bias?: boolean; skip?: boolean; silu?: boolean; keep?: boolean; map?: Tensor }

function groupNorm(name: string, dims: [number, number, number, number], options: Maps = {}): Case {
  const { groups = 32, bias = true, skip = true, silu = true, keep = true, map = noise(dims, 13, 4) } = options
  const channels = [dims[1]]
  return {
    name: `GroupNorm ${name} [${dims.join(', ')}] in ${groups} groups`,
    tolerance: HALVES,
    inputs: {
      ...{ map, weight: noise(channels, 14), bias: noise(channels, 15) },
      ...(bias && { pendingBias: noise(channels, 16, 5) }),
      ...(skip && { skip: noise(dims, 17, 2) }),
    },
    build(inputs, operators, half, layout) {
      const mapOf = (name: string) => layout.featureMap(half(inputs[name]!))
      const pending = { bias: inputs.pendingBias!, ...(skip && { skip: mapOf('skip') }) }
      const map: FeatureMap = { value: mapOf('map'), ...(bias && { pending }) }
      const result = operators.groupNorm(map, inputs.weight!, inputs.bias!, { groups, epsilon: 1e-6, silu, keep })
      const planes = (x: Value) => ops.cast(layout.planes(x), 'float32')
      return { normed: planes(result.normed), ...(keep && { sum: planes(result.map) }) }
    },
  }
}

const WIDE: [number, number, number] = [1, 5, 2432]
const MAP: [number, number, number, number] = [1, 128, 6, 10]

export const CASES: readonly Case[] = [
  modulate('of Large', [2, 37, 2432], { branches: 1, modulations: 1 }),
  modulate('of Medium, dual', [2, 19, 1536], { branches: 2, modulations: 2 }),
  modulate('of nano, first block', [1, 3, 192], { branches: 0, modulations: 2 }),
  modulate('one token', [1, 1, 2560], { branches: 1, modulations: 1 }),
  modulate('of eight values', [3, 2, 8], { branches: 2, modulations: 1 }),
  modulate('at 60,000', WIDE, { branches: 1, modulations: 1, stream: noise(WIDE, 1, 12_000) }),
  modulate('with a row of zeros and one of NaN', WIDE, {
    branches: 0,
    modulations: 1,
    stream: edited(noise(WIDE, 1), (data) => {
      data.fill(0, 2432, 2 * 2432)
      data[3 * 2432 + 7] = Number.NaN
    }),
  }),
  linear('of Large, qkv', [333, 2432, 7296]),
  linear('of Large, fc2', [77, 9728, 2432], 1 / 16),
  linear('one token', [1, 192, 576]),
  linear('odd', [129, 1536, 1552]),
  linear(
    'with a row of NaN',
    [3, 192, 64],
    1,
    edited(codes([1, 3, 192], 1), (data) => {
      data[192 + 5] = Number.NaN
    }),
  ),
  gelu('of Large', [2, 7, 9728]),
  gelu('of nano', [1, 3, 768]),
  gelu('of eight values', [1, 1, 8]),
  gelu(
    'at 60,000 and NaN',
    [1, 4, 6144],
    edited(noise([1, 4, 6144], 6, 1000), (data) => {
      data[6144 + 3] = Number.NaN
      data.fill(0, 2 * 6144, 3 * 6144)
    }),
  ),
  parts(2, 5, 3, 2432),
  parts(1, 129, 0, 1536),
  parts(1, 1, 1, 192),
  groupNorm("of the autoencoder's last level", [1, 128, 96, 160]),
  groupNorm('of its first, two samples', [2, 512, 20, 9]),
  groupNorm('without a skip', MAP, { skip: false, keep: false }),
  groupNorm('with nothing pending', MAP, { bias: false, skip: false, silu: false }),
  groupNorm('that keeps no sum', [1, 256, 17, 3], { keep: false }),
  // Without a sum in float16, whose rounding two nearly equal channels of a group would make large.
  groupNorm('of one pixel', [3, 64, 1, 1], { keep: false }),
  groupNorm('of 24 channels', [1, 24, 33, 31], { groups: 3 }),
  groupNorm('far from zero', MAP, {
    map: edited(noise(MAP, 13, 0.5), (data) => {
      data.forEach((x, i) => {
        data[i] = x + 500
      })
    }),
    bias: false,
    skip: false,
  }),
  groupNorm('with a value that is not a number', MAP, {
    map: edited(noise(MAP, 13), (data) => {
      data[777] = Number.NaN
    }),
    keep: false,
  }),
  attend('a tile', { image: 128, heads: 1 }),
  attend('less than a tile', { image: 3, heads: 3 }),
  attend('one token', { image: 1, heads: 1 }),
  attend('one more than tiles', { image: 257, heads: 2 }),
  attend('joint', { batch: 2, image: 96, text: 77, heads: 3 }),
  attend('joint, odd', { image: 191, text: 333, heads: 2 }),
  attend('last block', { batch: 2, image: 300, text: 154, heads: 2, textQueries: false }),
  attend('many tiles', { image: 1500, text: 333, heads: 3 }),
  attend('with NaN in a query', { image: 70, text: 5, heads: 2, broken: 33 }),
  attend('at 20,000', { image: 130, text: 9, heads: 2, scale: 5000 }),
]
