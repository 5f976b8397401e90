// Random weights at the speed of the disk: every tensor is a range of one random pool, shifted and scaled.
import type { Spread } from './full-size.ts'
import { convertFloat32ToBfloat16 } from './write-safetensors.ts'

/** Number of values in the pool: a prime, so that no two rows of a matrix are equal. */
export const POOL = 8_388_593
const KINDS = 64

/** Marsaglia, "Xorshift RNGs", 2003: 32 random bits per call, as an integer with a sign. `seed` must not be zero. */
export function createRandomWords(seed: number): () => number {
  let state = seed
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state
  }
}

/** Values uniformly distributed in [-range, range); by default their deviation is 1. */
export function drawPool(seed: number, range = Math.sqrt(3)): Float32Array {
  const pool = new Float32Array(POOL)
  const random = createRandomWords(seed ^ 0x9e3779b9 || 1)
  for (let i = 0; i < pool.length; i++) pool[i] = (random() / 2 ** 31) * range
  return pool
}

const cache = new WeakMap<Float32Array, Map<string, Uint16Array>>()

/** The pool with another mean and deviation, in bfloat16. Results are cached, because a network has few kinds. */
export function scalePool(pool: Float32Array, { mean, deviation }: Spread): Uint16Array {
  const kinds = cache.get(pool) ?? new Map<string, Uint16Array>()
  cache.set(pool, kinds)
  const key = `${mean} ${deviation}`
  const found = kinds.get(key)
  if (found) return found
  if (kinds.size >= KINDS) kinds.clear()
  const words = toBfloat16(pool.map((value) => mean + deviation * value))
  kinds.set(key, words)
  return words
}

/** diffusers' `get_2d_sincos_pos_embed` with base size 64, [side², width] in bfloat16. */
export function createSineTable(side: number, width: number): Uint8Array {
  const axis = Array.from({ length: side }, (_, i) => toBfloat16(computeSines(i / (side / 64), width / 2)))
  const table = new Uint16Array(side * side * width)
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const at = (row * side + column) * width
      table.set(axis[column]!, at)
      table.set(axis[row]!, at + width / 2)
    }
  }
  return new Uint8Array(table.buffer)
}

function computeSines(position: number, width: number): Float32Array {
  const half = width / 2
  return Float32Array.from({ length: width }, (_, i) => {
    const angle = position / 10000 ** ((i % half) / half)
    return i < half ? Math.sin(angle) : Math.cos(angle)
  })
}

function toBfloat16(values: Float32Array): Uint16Array {
  const words = new Uint16Array(values.length)
  convertFloat32ToBfloat16(values, words)
  return words
}
