// Tensors for comparisons: inputs by the formula of test/golden/scripts/tiny_inputs.py, golden outputs, error measures.
import { readFile } from 'node:fs/promises'
import { readHeader } from '../../../gpu-fn/compile/checkpoint/formats/safetensors.ts'
import { computeRelativeError as errorOfValues } from '../../../infra/bench/statistics.ts'

export type FloatTensor = { data: Float32Array; dims: readonly number[] }

const countElements = (dims: readonly number[]) => dims.reduce((product, n) => product * n, 1)

/** A 32-bit hash of each index below `count`. */
export function computeHashes(count: number, seed: number): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => {
    let x = (Math.imul(i, 2654435761) + Math.imul(seed, 40503)) >>> 0
    x = Math.imul(x ^ (x >>> 16), 2246822519) >>> 0
    x = Math.imul(x ^ (x >>> 13), 3266489917) >>> 0
    return x ^ (x >>> 16)
  })
}

/** Values in [−√3, √3), of deviation 1. */
export function createPseudoRandom(dims: readonly number[], seed: number): FloatTensor {
  return {
    dims,
    data: Float32Array.from(computeHashes(countElements(dims), seed), (hash) => (hash / 2 ** 31 - 1) * Math.sqrt(3)),
  }
}

const [BOS, EOS, TOKENS] = [998, 999, 77]

/** One row per length: BOS, that number of words, EOS, padding. `aboveEos` is a word whose id is higher than that of EOS. */
export function clipIds(lengths: readonly number[], seed: number, pad: number, aboveEos?: number) {
  const rows = lengths.map((length, row) => {
    const words = Array.from(computeHashes(length, seed + row), (hash) => 1 + (hash % 997))
    if (aboveEos !== undefined && length > 3) words[2] = aboveEos
    return [BOS, ...words, EOS, ...Array(TOKENS - 2 - length).fill(pad)]
  })
  return { dims: [lengths.length, TOKENS], data: BigInt64Array.from(rows.flat(), BigInt) }
}

export function createT5Ids(batch: number, tokens: number, seed: number) {
  return {
    dims: [batch, tokens],
    data: BigInt64Array.from(computeHashes(batch * tokens, seed), (hash) => BigInt(hash % 1000)),
  }
}

/** The float32 tensors of a small safetensors file. */
export async function readTensors(file: string): Promise<Map<string, FloatTensor>> {
  const { tensors } = await readHeader(file)
  const { buffer } = new Uint8Array(await readFile(file))
  return new Map(
    [...tensors].map(([name, { dtype, shape, offset, bytes }]) => {
      if (dtype !== 'F32') throw new Error(`${file}: ${name} is ${dtype}, not F32`)
      return [name, { dims: shape, data: new Float32Array(buffer.slice(offset, offset + bytes)) }]
    }),
  )
}

/** Every `step`-th row of axis 1 of a [B, L, D] tensor. */
export function sampleRows({ data, dims }: FloatTensor, step: number): FloatTensor {
  const [batch, length, width] = dims as [number, number, number]
  const rows = Array.from({ length: Math.ceil(length / step) }, (_, i) => i * step)
  const out = new Float32Array(batch * rows.length * width)
  for (let b = 0; b < batch; b++) {
    for (const [i, row] of rows.entries()) {
      const from = (b * length + row) * width
      out.set(data.subarray(from, from + width), (b * rows.length + i) * width)
    }
  }
  return { data: out, dims: [batch, rows.length, width] }
}

/** ‖a − b‖ / ‖b‖; infinite where the shapes differ or a value is not finite. */
export function computeRelativeError(a: FloatTensor, b: FloatTensor): number {
  if (a.dims.join() !== b.dims.join()) return Number.POSITIVE_INFINITY
  const error = errorOfValues(a.data, b.data)
  return Number.isFinite(error) ? error : Number.POSITIVE_INFINITY
}
