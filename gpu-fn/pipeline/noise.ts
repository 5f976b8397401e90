// The standard normal noise of `torch.randn(shape, generator=torch.Generator('cpu').manual_seed(seed))`, so that a seed reproduces
// diffusers' image. PyTorch: ATen/core/MT19937RNGEngine.h, DistributionsHelper.h, native/cpu/DistributionTemplates.h.

import { setImmediate } from 'node:timers/promises'
import type { Seed } from '../contract.ts'

const STATE_WORDS = 624
const MIDDLE_WORD = 397
/** Values per Box–Muller group; shorter arrays use a double precision path. */
const GROUP = 16
/** One or two milliseconds of work. */
const GROUPS_AT_A_TIME = 2048

/** 32-bit words of MT19937 (Matsumoto and Nishimura, 1998). */
function createMersenneTwister(seed: Seed): () => number {
  const state = new Uint32Array(STATE_WORDS)
  state[0] = Number(BigInt.asUintN(32, BigInt(seed)))
  for (let i = 1; i < STATE_WORDS; i++) {
    const previous = state[i - 1]!
    state[i] = Math.imul(1812433253, previous ^ (previous >>> 30)) + i
  }
  let next = STATE_WORDS
  return () => {
    if (next === STATE_WORDS) {
      twist(state)
      next = 0
    }
    let y = state[next++]!
    y ^= y >>> 11
    y ^= (y << 7) & 0x9d2c5680
    y ^= (y << 15) & 0xefc60000
    return (y ^ (y >>> 18)) >>> 0
  }
}

function twist(state: Uint32Array): void {
  for (let i = 0; i < STATE_WORDS; i++) {
    const joined = (state[i]! & 0x80000000) | (state[(i + 1) % STATE_WORDS]! & 0x7fffffff)
    state[i] = state[(i + MIDDLE_WORD) % STATE_WORDS]! ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0)
  }
}

/** Box–Muller in place over one group: value j is the radius and value j + 8 the angle of a pair of normals. */
function toNormals(data: Float32Array, start: number): void {
  for (let j = start; j < start + GROUP / 2; j++) {
    const radius = Math.fround(Math.sqrt(Math.fround(-2 * Math.fround(Math.log(1 - data[j]!)))))
    const theta = Math.fround(Math.fround(2 * Math.PI) * data[j + GROUP / 2]!)
    data[j] = radius * Math.fround(Math.cos(theta))
    data[j + GROUP / 2] = radius * Math.fround(Math.sin(theta))
  }
}

/** Yields at the start and every `GROUPS_AT_A_TIME` groups. */
function* fillGroups(data: Float32Array, word: () => number): Generator<void> {
  const drawUniform = () => (word() & 0xffffff) / 2 ** 24
  yield
  for (let i = 0; i < data.length; i++) data[i] = drawUniform()
  for (let i = 0; i + GROUP <= data.length; i += GROUP) {
    if (i % (GROUPS_AT_A_TIME * GROUP) === 0) yield
    toNormals(data, i)
  }
  if (data.length % GROUP === 0) return
  // The last group is drawn again and overlaps the one before it, as in PyTorch.
  const last = data.length - GROUP
  for (let i = last; i < data.length; i++) data[i] = drawUniform()
  toNormals(data, last)
}

/** Box–Muller in double precision; values alternate between the cosine and the sine of a pair. */
function fillPairs(data: Float32Array, word: () => number): void {
  const drawUniform = () => ((word() % 2 ** 21) * 2 ** 32 + word()) / 2 ** 53
  for (let i = 0; i < data.length; i += 2) {
    const theta = 2 * Math.PI * drawUniform()
    const radius = Math.sqrt(-2 * Math.log1p(-drawUniform()))
    data[i] = radius * Math.cos(theta)
    if (i + 1 < data.length) data[i + 1] = radius * Math.sin(theta)
  }
}

/**
 * `count` standard normal values, equal to PyTorch's CPU generator within 1e-6 (PyTorch approximates log, sine and cosine on AVX2).
 * As in PyTorch only the low 32 bits of `seed` count.
 */
export function drawGaussianNoise(seed: Seed, count: number): Float32Array {
  const data = new Float32Array(count)
  for (const _ of fill(data, createMersenneTwister(seed)));
  return data
}

/** Successive draws of one generator, each of `count` values: the first is the noise of `drawGaussianNoise`. Does not block the event loop. */
export function createNoise(seed: Seed, count: number): () => Promise<Float32Array> {
  const word = createMersenneTwister(seed)
  return async () => {
    const data = new Float32Array(count)
    for (const _ of fill(data, word)) await setImmediate()
    return data
  }
}

function* fill(data: Float32Array, word: () => number): Generator<void> {
  if (data.length >= GROUP) yield* fillGroups(data, word)
  else fillPairs(data, word)
}
