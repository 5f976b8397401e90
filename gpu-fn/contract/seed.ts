import * as z from 'zod'
import { LIMITS } from './limits.ts'

const SEEDS = BigInt(LIMITS.seedMax) + 1n
const isSeed = (text: string) => /^\d{1,20}$/.test(text) && BigInt(text) < SEEDS
/** JSON numbers are exact up to 2^53 - 1: a larger seed is a decimal string, a smaller one a number. */
const toCanonicalSeed = (value: bigint): number | string =>
  value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : String(value)
/** A seed as in torch, an unsigned integer of 64 bits: a number, or a decimal string. */
export const seed = z
  .union([z.int().min(0), z.string().refine(isSeed, { abort: true })])
  .transform((given) => toCanonicalSeed(BigInt(given)))
export type Seed = z.infer<typeof seed>

/** The seed of image number `image`: `seed` + `image`, modulo 2^64. */
export const seedOf = (seed: Seed, image: number): Seed => toCanonicalSeed((BigInt(seed) + BigInt(image)) % SEEDS)
