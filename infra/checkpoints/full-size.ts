// A full-size SD3.5 with seeded random weights in the diffusers layout: transformer, three text encoders, autoencoder and tokenizers. It
// has the cost of a real one, and activations of bounded magnitude, so that precisions and programs can be compared.
// node infra/checkpoints/full-size.ts --variant large|medium --out DIR [--seed 0]
import { type FileHandle, mkdir, open, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Command, Option } from 'commander'
import { parseWholeNumber } from '../command/whole-number.ts'
import { copyTokenizers } from '../local/built-in-model.ts'
import { clipText, diffusersTransformer, type Shapes, t5Encoder, VARIANTS } from './published-shapes.ts'
import { diffusersVae } from './published-vae-shapes.ts'
import { drawPool, POOL, scaled, sineTable } from './random-weights.ts'
import { safetensorsHeader } from './safetensors-header.ts'
import { clipConfig, modelIndex, schedulerConfig, t5Config, transformerConfig, vaeConfig } from './tiny/configs.ts'
import type { TinyShape } from './tiny/variants.ts'

export const FULL_SIZES = ['large', 'medium'] as const
export type FullSize = (typeof FULL_SIZES)[number]
export type Spread = { mean: number; deviation: number }

const shapeOf = (variant: FullSize): TinyShape => {
  const { depth, positions, dualAttention } = VARIANTS[variant]
  const clip = { vocabulary: 49408, eosTokenId: 2, inputScale: 1, heads: 12, depth: 12, width: 768, projection: 768 }
  return {
    transformer: {
      ...{ depth, heads: depth, headDim: 64, patch: 2, channels: 16, qkNorm: true, positions, sampleSize: 128 },
      ...{ dual: Array.from({ length: dualAttention }, (_, i) => i), positionTable: 'sincos', inputScale: 1 },
    },
    clipL: { ...clip, activation: 'quick_gelu' },
    clipG: { ...clip, heads: 20, depth: 32, width: 1280, projection: 1280, activation: 'gelu' },
    t5: {
      ...{ width: 4096, heads: 64, headDim: 64, depth: 24, feedForward: 10240, buckets: 32, maxDistance: 128 },
      ...{ inputScale: 1, vocabulary: 32128 },
    },
    vae: {
      ...{ blocks: [128, 256, 512, 512], layersPerBlock: 2, groups: 32 },
      ...{ scalingFactor: 1.5305, shiftFactor: 0.0609, postQuantConv: false },
    },
    shift: 3,
  }
}

type Component = { directory: string; file: string; shapes: Shapes; config: Record<string, unknown>; name: string }

/** Every network of a variant with its published names and shapes. */
export function componentsOf(variant: FullSize): Component[] {
  const shape = shapeOf(variant)
  const model = { file: 'model.safetensors', name: 'config.json' }
  const diffusion = { file: 'diffusion_pytorch_model.safetensors', name: 'config.json' }
  const { clipL, clipG } = shape
  return [
    {
      ...{ ...diffusion, directory: 'transformer', config: transformerConfig(shape) },
      shapes: diffusersTransformer(VARIANTS[variant]),
    },
    { ...model, directory: 'text_encoder_3', shapes: t5Encoder(false), config: t5Config(shape.t5) },
    {
      ...{ ...model, directory: 'text_encoder_2', config: clipConfig(clipG) },
      shapes: clipText(clipG.width, clipG.depth, true),
    },
    {
      ...{ ...model, directory: 'text_encoder', config: clipConfig(clipL) },
      shapes: clipText(clipL.width, clipL.depth, true),
    },
    { ...diffusion, directory: 'vae', shapes: diffusersVae(), config: vaeConfig(shape) },
  ]
}

/** The distribution of a parameter's values, chosen so that every layer preserves the magnitude of its input. */
export function spreadOf(name: string, shape: readonly number[]): Spread {
  if (shape.length === 1) return name.endsWith('weight') ? { mean: 1, deviation: 0.1 } : { mean: 0, deviation: 0.1 }
  const columns = shape.slice(1).reduce((product, n) => product * n, 1)
  if (/relative_attention_bias|position_embedding/.test(name)) return { mean: 0, deviation: 0.3 }
  if (/shared\.weight|token_embedding/.test(name)) return { mean: 0, deviation: 1 }
  // T5 does not divide its scores by the square root of the head's width.
  const deviation = name.endsWith('SelfAttention.q.weight') ? 1 / Math.sqrt(columns * 64) : 1 / Math.sqrt(columns)
  // With a small gain of the last convolution, few colors are clipped.
  return { mean: 0, deviation: name.endsWith('decoder.conv_out.weight') ? deviation / 2 : deviation }
}

/** Writes the checkpoint into `out` in bfloat16; the same seed gives the same bytes. Returns the bytes of all weights. */
export async function writeFullSizeCheckpoint(variant: FullSize, out: string, seed = 0): Promise<number> {
  const pool = drawPool(seed)
  const components = componentsOf(variant)
  await copyTokenizers(out)
  await writeJson(path.join(out, 'model_index.json'), modelIndex(true))
  await mkdir(path.join(out, 'scheduler'), { recursive: true })
  await writeJson(path.join(out, 'scheduler', 'scheduler_config.json'), schedulerConfig(shapeOf(variant)))
  const sizes = components.map(async ({ directory, file, shapes, config, name }) => {
    const at = path.join(out, directory)
    await mkdir(at, { recursive: true })
    await writeJson(path.join(at, name), config)
    return writeWeights(path.join(at, file), shapes, pool)
  })
  return (await Promise.all(sizes)).reduce((sum, bytes) => sum + bytes)
}

async function writeWeights(out: string, shapes: Shapes, pool: Float32Array): Promise<number> {
  const tensors = [...shapes].map(([name, shape]) => ({ name, shape, dtype: 'BF16' as const }))
  const { header, dataBytes } = safetensorsHeader(tensors)
  await using file = await open(out, 'w')
  await file.writeFile(header)
  let from = 0
  for (const { name, shape } of tensors) {
    const count = shape.reduce((product, n) => product * n, 1)
    if (name === 'pos_embed.pos_embed') await file.writeFile(sineTable(Math.sqrt(shape[1]!), shape[2]!))
    else await writeDrawn(file, scaled(pool, spreadOf(name, shape)), from, count)
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

const writeJson = (file: string, value: unknown) => writeFile(file, `${JSON.stringify(value, null, 2)}\n`)

if (import.meta.main) {
  const { variant, out, seed } = new Command('full-size-checkpoint')
    .addOption(new Option('--variant <name>').choices(['large', 'medium']).makeOptionMandatory())
    .requiredOption('--out <directory>')
    .option('--seed <seed>', 'what to draw the weights from', parseWholeNumber, 0)
    .parse()
    .opts<{ variant: FullSize; out: string; seed: number }>()
  const start = performance.now()
  const bytes = await writeFullSizeCheckpoint(variant, out, seed)
  console.log(
    `${out}: ${(bytes / 1e9).toFixed(2)} GB of ${variant} in ${((performance.now() - start) / 1000).toFixed(1)} s`,
  )
}
