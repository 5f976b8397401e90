// A Stable Diffusion 3.5 checkpoint of a few megabytes with seeded random weights, in either layout.
// node infra/checkpoints/tiny/checkpoint.ts --out DIR [--variant tiny-medium] [--layout diffusers|single-file] [--seed 0] [--dtype F32]
import { cp, mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Command, Option } from 'commander'
import { parseWholeNumber } from '../../command/numbers.ts'
import { type NamedTensor, type StoredDtype, writeSafetensors } from '../write-safetensors.ts'
import {
  createClipConfig,
  createModelIndex,
  createSchedulerConfig,
  createT5Config,
  createTransformerConfig,
  createVaeConfig,
} from './configs.ts'
import { convertTransformerToDiffusers, convertVaeToDiffusers } from './diffusers-layout.ts'
import { createClipParameters, createT5Parameters, createTransformerParameters } from './networks.ts'
import { draw, type Parameter } from './parameters.ts'
import { createVaeParameters } from './vae.ts'
import { TINY_VARIANTS, type TinyShape, type TinyVariant } from './variants.ts'

export type TinyOptions = {
  variant?: TinyVariant
  layout?: 'diffusers' | 'single-file'
  seed?: number
  dtype?: StoredDtype
  /** false omits the third text encoder and its tokenizer. */
  t5?: boolean
  /**
   * Scales the inputs of T5's feed-forward layers, whose gated product grows with the square of the scale. The products of T5-XXL exceed
   * float16.
   */
  t5Gain?: number
}
type Networks = Record<'transformer' | 'clip_l' | 'clip_g' | 't5' | 'vae', NamedTensor[]>

const TOKENIZERS = path.join(import.meta.dirname, 'tokenizers')

/**
 * Writes a tiny checkpoint into `directory` and returns the path to compile: the directory itself, or the single file in it.
 * Both layouts carry the same values; the same options produce the same bytes on every machine.
 */
export async function writeTinyCheckpoint(directory: string, options: TinyOptions = {}): Promise<string> {
  const { variant = 'tiny-medium', layout = 'diffusers', seed = 0, dtype = 'F32', t5 = true, t5Gain = 1 } = options
  const shape: TinyShape = TINY_VARIANTS[variant]
  const networks = drawNetworks(shape, `${variant}/${seed}`)
  for (const { name, data } of networks.t5)
    if (/DenseReluDense\.wi_[01]\./.test(name)) for (let i = 0; i < data.length; i++) data[i]! *= t5Gain
  await mkdir(directory, { recursive: true })
  for (const name of ['tokenizer', 'tokenizer_2', ...(t5 ? ['tokenizer_3'] : [])]) {
    await cp(path.join(TOKENIZERS, name), path.join(directory, name), { recursive: true })
  }
  if (layout === 'diffusers') {
    await writeDiffusers(directory, shape, networks, dtype, t5)
    return directory
  }
  const file = path.join(directory, `${variant}.safetensors`)
  await writeSafetensors(file, listSingleFile(networks, t5), dtype)
  return file
}

function drawNetworks(shape: TinyShape, seed: string): Networks {
  const pooled = shape.clipL.projection + shape.clipG.projection
  const drawValues = (network: string, parameters: Parameter[]) =>
    parameters.map((parameter) => draw(parameter, `${seed}/${network}`))
  return {
    transformer: drawValues('transformer', createTransformerParameters(shape.transformer, shape.t5.width, pooled)),
    clip_l: drawValues('clip_l', createClipParameters(shape.clipL)),
    clip_g: drawValues('clip_g', createClipParameters(shape.clipG)),
    t5: drawValues('t5', createT5Parameters(shape.t5)),
    vae: drawValues('vae', createVaeParameters(shape.vae, shape.transformer.channels)),
  }
}

function listSingleFile(networks: Networks, t5: boolean): NamedTensor[] {
  const addPrefix = (prefix: string, tensors: NamedTensor[]) =>
    tensors.map((tensor) => ({ ...tensor, name: prefix + tensor.name }))
  return [
    ...addPrefix('model.diffusion_model.', networks.transformer),
    ...addPrefix('first_stage_model.', networks.vae),
    ...addPrefix('text_encoders.clip_l.transformer.', networks.clip_l),
    ...addPrefix('text_encoders.clip_g.transformer.', networks.clip_g),
    ...(t5 ? addPrefix('text_encoders.t5xxl.transformer.', networks.t5) : []),
  ]
}

async function writeDiffusers(
  directory: string,
  shape: TinyShape,
  networks: Networks,
  dtype: StoredDtype,
  t5: boolean,
): Promise<void> {
  const writeComponent = async (
    name: string,
    config: Record<string, unknown>,
    file: string,
    tensors: NamedTensor[],
  ) => {
    await mkdir(path.join(directory, name), { recursive: true })
    await writeJson(path.join(directory, name, 'config.json'), config)
    await writeSafetensors(path.join(directory, name, file), tensors, dtype)
  }
  const weights = { diffusers: 'diffusion_pytorch_model.safetensors', transformers: 'model.safetensors' }
  const transformer = convertTransformerToDiffusers(networks.transformer, shape.transformer.depth)
  const vae = convertVaeToDiffusers(networks.vae, shape.vae.blocks.length)
  await writeJson(path.join(directory, 'model_index.json'), createModelIndex(t5))
  await writeComponent('transformer', createTransformerConfig(shape), weights.diffusers, transformer)
  await writeComponent('vae', createVaeConfig(shape), weights.diffusers, vae)
  await writeComponent('text_encoder', createClipConfig(shape.clipL), weights.transformers, networks.clip_l)
  await writeComponent('text_encoder_2', createClipConfig(shape.clipG), weights.transformers, networks.clip_g)
  if (t5) await writeComponent('text_encoder_3', createT5Config(shape.t5), weights.transformers, networks.t5)
  await mkdir(path.join(directory, 'scheduler'), { recursive: true })
  await writeJson(path.join(directory, 'scheduler', 'scheduler_config.json'), createSchedulerConfig(shape))
}

const writeJson = (file: string, value: unknown) => writeFile(file, `${JSON.stringify(value, null, 2)}\n`)

if (import.meta.main) {
  const variants = Object.keys(TINY_VARIANTS)
  const options = new Command('tiny-checkpoint')
    .requiredOption('--out <directory>')
    .addOption(new Option('--variant <name>').choices(variants).default('tiny-medium'))
    .addOption(new Option('--layout <layout>').choices(['diffusers', 'single-file']).default('diffusers'))
    .addOption(new Option('--dtype <dtype>').choices(['F32', 'F16', 'BF16']).default('F32'))
    .option('--seed <integer>', 'another seed produces different weights', parseWholeNumber, 0)
    .option('--no-t5', 'leave the third text encoder out')
    .parse()
    .opts<TinyOptions & { out: string }>()
  console.log(await writeTinyCheckpoint(options.out, options))
}
