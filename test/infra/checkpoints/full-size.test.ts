import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { readTokenizers } from '../../../gpu-fn/compile/write/tokenizers.ts'
import type { TextEncoderManifest } from '../../../gpu-fn/manifest.ts'
import { TOKENS } from '../../../gpu-fn/models/sd35/text-encoders.ts'
import { spreadOf, writeTokenizers } from '../../../infra/checkpoints/full-size.ts'
import { readHeaders, readShapes } from '../../../infra/checkpoints/published.ts'
import { createSineTable, drawPool, POOL, scalePool } from '../../../infra/checkpoints/random-weights.ts'

const countElements = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1)

test.each([
  ['large', 8_146_280_768],
  ['medium', 2_469_663_936],
] as const)('%s has the parameter count of the published model', async (variant, transformer) => {
  const counts: Record<string, number> = {}
  for (const [file, content] of Object.entries(await readHeaders(variant, 'diffusers'))) {
    if (file.endsWith('.json')) continue
    const network = path.dirname(file)
    counts[network] = readShapes(content).reduce((sum, { shape }) => sum + countElements(shape), counts[network] ?? 0)
  }
  expect(counts).toEqual({
    transformer,
    text_encoder: 123_060_480 + 589_824,
    text_encoder_2: 694_659_840,
    text_encoder_3: 4_762_310_656,
    vae: 83_819_683,
  })
})

test('draws weights with which a layer preserves the magnitude of its input', () => {
  expect(spreadOf('transformer_blocks.0.ff.net.2.weight', [2432, 9728])).toEqual({
    mean: 0,
    deviation: 1 / Math.sqrt(9728),
  })
  expect(spreadOf('decoder.conv_in.weight', [512, 16, 3, 3]).deviation).toBeCloseTo(1 / 12)
  expect(spreadOf('transformer_blocks.0.attn.norm_q.weight', [64]).mean).toBe(1)
  expect(spreadOf('transformer_blocks.0.attn.to_q.bias', [2432]).mean).toBe(0)
  // T5's scores are not divided by the root of 64.
  const query = spreadOf('encoder.block.3.layer.0.SelfAttention.q.weight', [4096, 4096]).deviation
  expect(query / spreadOf('encoder.block.3.layer.0.SelfAttention.k.weight', [4096, 4096]).deviation).toBeCloseTo(1 / 8)
})

function convertFromBfloat16(words: Uint16Array): Float32Array {
  return new Float32Array(Uint32Array.from(words, (word) => word << 16).buffer)
}

test('draws the same values for the same seed, with the requested mean and deviation', () => {
  const pool = drawPool(3)
  expect(pool).toHaveLength(POOL)
  expect(drawPool(3).subarray(0, 100)).toEqual(pool.subarray(0, 100))
  expect(drawPool(4).subarray(0, 100)).not.toEqual(pool.subarray(0, 100))
  const values = convertFromBfloat16(scalePool(pool, { mean: 1, deviation: 0.1 }))
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length)
  expect(mean).toBeCloseTo(1, 3)
  expect(deviation).toBeCloseTo(0.1, 3)
})

test("has the position table from diffusers' formula", () => {
  // get_2d_sincos_pos_embed(width 8, side 4, base size 64): position 3 · 16 = 48.
  const [side, width] = [4, 8]
  const words = new Uint16Array(createSineTable(side, width).buffer)
  const row = Array.from(convertFromBfloat16(words).subarray((1 * side + 3) * width, (1 * side + 3) * width + width))
  const expected = [48, 16].flatMap((at) => [Math.sin(at), Math.sin(at / 100), Math.cos(at), Math.cos(at / 100)])
  expect(row.map((value, i) => Math.abs(value - expected[i]!) < 0.004)).toEqual(row.map(() => true))
})

test('has tokenizers of the published size, as required by the compiler', async () => {
  const out = await mkdtemp(path.join(tmpdir(), 'octet-tokenizers-'))
  try {
    await writeTokenizers(out)
    const names = { clip_l: 'tokenizer', clip_g: 'tokenizer_2', t5: 'tokenizer_3' } as const
    const encoders = Object.entries(names).map(([name, tokenizer]) => ({ name, title: name, tokenizer }))
    const vocabularies = Object.entries(TOKENS).map(([name, tokens]) => [
      name,
      { ...tokens, rows: tokens.published.rows },
    ])
    const { notes } = await readTokenizers(
      encoders as unknown as TextEncoderManifest[],
      new Map(vocabularies as [string, (typeof TOKENS)['t5'] & { rows: number }][]),
      { tokenizers: {} },
      { tokenizers: out },
    )
    expect(notes).toEqual([])
  } finally {
    await rm(out, { recursive: true })
  }
})
