// A full-size SD3.5 with seeded random weights in the diffusers layout: transformer, three text encoders, autoencoder and tokenizers. It
// has the cost of a real one, and activations of bounded magnitude, so that precisions and programs can be compared.
// node infra/checkpoints/full-size.ts --variant large|medium --out DIR [--seed 0]
import { type FileHandle, mkdir, open, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Command, Option } from 'commander'
import { TOKENS } from '../../gpu-fn/models/sd35/text-encoders.ts'
import { parseWholeNumber } from '../command/numbers.ts'
import { copyTokenizers } from '../local/models/built-in-model.ts'
import { type NamedShape, readHeaders, readShapes } from './published.ts'
import { createSineTable, drawPool, POOL, scalePool } from './random-weights.ts'
import { encodeSafetensorsHeader } from './safetensors-header.ts'
import { createModelIndex } from './tiny/configs.ts'
import { createControlnetParameters } from './tiny/controlnet.ts'

export const FULL_SIZES = ['large', 'medium'] as const
export type FullSize = (typeof FULL_SIZES)[number]
export type Spread = { mean: number; deviation: number }

/** The distribution of a parameter's values, chosen so that every layer preserves the magnitude of its input. */
export function spreadOf(name: string, shape: readonly number[]): Spread {
  if (shape.length === 1) return name.endsWith('weight') ? { mean: 1, deviation: 0.1 } : { mean: 0, deviation: 0.1 }
  const columns = shape.slice(1).reduce((product, n) => product * n, 1)
  if (/relative_attention_bias|position_embedding/.test(name)) return { mean: 0, deviation: 0.3 }
  if (/shared\.weight|token_embedding/.test(name)) return { mean: 0, deviation: 1 }
  // T5 does not divide its scores by the square root of the head's width.
  const deviation = name.endsWith('SelfAttention.q.weight') ? 1 / Math.sqrt(columns * 64) : 1 / Math.sqrt(columns)
  // A small gain of the last convolution keeps most colors unclipped.
  return { mean: 0, deviation: name.endsWith('decoder.conv_out.weight') ? deviation / 2 : deviation }
}

/** Writes the checkpoint into `out` in bfloat16; the same seed produces the same bytes. Returns the bytes of all weights. */
export async function writeFullSizeCheckpoint(variant: FullSize, out: string, seed = 0): Promise<number> {
  const pool = drawPool(seed)
  await writeTokenizers(out)
  const files = { ...(await readHeaders(variant, 'diffusers')), 'model_index.json': createModelIndex(true) }
  const sizes = Object.entries(files).map(async ([name, content]) => {
    const file = path.join(out, name)
    await mkdir(path.dirname(file), { recursive: true })
    if (!name.endsWith('.json')) return writeWeights(file, readShapes(content), pool)
    await writeFile(file, `${JSON.stringify(content, null, 2)}\n`)
    return 0
  })
  return (await Promise.all(sizes)).reduce((sum, bytes) => sum + bytes)
}

/** Writes a ControlNet of SD3.5 Large's shape, with random weights in bfloat16, under Stability's names. */
export async function writeFullSizeControlnet(file: string, seed = 1): Promise<number> {
  const shape = { width: 2432, pooled: 2048, channels: 16, patch: 2, layers: 19 }
  await mkdir(path.dirname(file), { recursive: true })
  return writeWeights(file, createControlnetParameters(shape), drawPool(seed))
}

const VOCABULARIES = { tokenizer: TOKENS.clip_l, tokenizer_2: TOKENS.clip_g, tokenizer_3: TOKENS.t5 }

/** Writes nano's tokenizers with one more token, which has the last id of the published vocabulary: the compiler requires that size. */
export async function writeTokenizers(out: string): Promise<void> {
  await copyTokenizers(out)
  for (const [name, { published }] of Object.entries(VOCABULARIES)) {
    const file = path.join(out, name, 'tokenizer_config.json')
    const config = JSON.parse(await readFile(file, 'utf8'))
    const last = {
      content: '<last>',
      lstrip: false,
      rstrip: false,
      single_word: false,
      normalized: false,
      special: true,
    }
    const added_tokens_decoder = { ...config.added_tokens_decoder, [published.ids - 1]: last }
    await writeFile(file, JSON.stringify({ ...config, added_tokens_decoder }))
  }
}

async function writeWeights(out: string, shapes: readonly NamedShape[], pool: Float32Array): Promise<number> {
  const { header, dataBytes } = encodeSafetensorsHeader(shapes.map((each) => ({ ...each, dtype: 'BF16' })))
  await using file = await open(out, 'w')
  await file.writeFile(header)
  let from = 0
  for (const { name, shape } of shapes) {
    const count = shape.reduce((product, n) => product * n, 1)
    if (name === 'pos_embed.pos_embed') await file.writeFile(createSineTable(Math.sqrt(shape[1]!), shape[2]!))
    else await writeDrawn(file, scalePool(pool, spreadOf(name, shape)), from, count)
    from = (from + count) % POOL
  }
  return dataBytes
}

/** `count` values of the pool from `from` on, cyclically. */
async function writeDrawn(file: FileHandle, words: Uint16Array, from: number, count: number): Promise<void> {
  for (let start = from, left = count; left > 0; start = 0) {
    const part = words.subarray(start, Math.min(words.length, start + left))
    await file.writeFile(new Uint8Array(part.buffer, part.byteOffset, part.byteLength))
    left -= part.length
  }
}

if (import.meta.main) {
  const { variant, out, seed } = new Command('full-size-checkpoint')
    .addOption(new Option('--variant <name>').choices(FULL_SIZES).makeOptionMandatory())
    .requiredOption('--out <directory>')
    .option('--seed <seed>', 'seed of the weights', parseWholeNumber, 0)
    .parse()
    .opts<{ variant: FullSize; out: string; seed: number }>()
  const start = performance.now()
  const bytes = await writeFullSizeCheckpoint(variant, out, seed)
  console.log(
    `${out}: ${(bytes / 1e9).toFixed(2)} GB of ${variant} in ${((performance.now() - start) / 1000).toFixed(1)} s`,
  )
}
