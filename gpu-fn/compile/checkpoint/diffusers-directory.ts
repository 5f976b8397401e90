// Where diffusers keeps the parts of a pipeline: one folder a network, weights in one file or in shards, config.json beside them.
import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from './error.ts'
import type { SafetensorsFile } from './safetensors.ts'
import { readHeader } from './safetensors.ts'
import { readJsonObject, readSharded } from './shards.ts'
import type { Checkpoint, CheckpointNetwork, TokenizerName } from './tensor.ts'

const FOLDERS: readonly [folder: string, network: CheckpointNetwork, weights: string][] = [
  ['transformer', 'transformer', 'diffusion_pytorch_model'],
  ['text_encoder', 'clip_l', 'model'],
  ['text_encoder_2', 'clip_g', 'model'],
  ['text_encoder_3', 't5', 'model'],
  ['vae', 'vae', 'diffusion_pytorch_model'],
]

const TOKENIZERS: readonly TokenizerName[] = ['tokenizer', 'tokenizer_2', 'tokenizer_3']

/** The weights of each network folder that exists, and the configuration files. Throws CheckpointError when there is none. */
export async function readDiffusersDirectory(directory: string) {
  const files = new Map<CheckpointNetwork, SafetensorsFile>()
  const config: Checkpoint['config'] = {}
  for (const [folder, network, weights] of FOLDERS) {
    const at = path.join(directory, folder)
    if (!(await isDirectory(at))) continue
    files.set(network, await readWeights(at, weights))
    config[network] = await readOptional(path.join(at, 'config.json'))
  }
  if (files.size === 0) {
    const folders = FOLDERS.map(([folder]) => folder).join(', ')
    throw new CheckpointError(directory, `is no diffusers checkpoint: it has none of the folders ${folders}`)
  }
  config.scheduler = await readOptional(path.join(directory, 'scheduler', 'scheduler_config.json'))
  return { files, config }
}

/** The tokenizer folders in `directory`. */
export async function findTokenizers(directory: string): Promise<Checkpoint['tokenizers']> {
  const found: Checkpoint['tokenizers'] = {}
  for (const name of TOKENIZERS) {
    const at = path.join(directory, name)
    if (await isDirectory(at)) found[name] = at
  }
  return found
}

export async function isDirectory(at: string): Promise<boolean> {
  return (await stat(at).catch(() => undefined))?.isDirectory() ?? false
}

async function readOptional(file: string): Promise<Record<string, unknown>> {
  const exists = await stat(file).catch(() => undefined)
  return exists ? readJsonObject(file) : {}
}

/** Full precision is preferred to the `fp16` variant, which diffusers spells `index.fp16.json` when it is sharded. */
async function readWeights(folder: string, stem: string): Promise<SafetensorsFile> {
  const candidates = [
    `${stem}.safetensors`,
    `${stem}.safetensors.index.json`,
    `${stem}.fp16.safetensors`,
    `${stem}.safetensors.index.fp16.json`,
    `${stem}.fp16.safetensors.index.json`,
  ]
  const present = new Set(await readdir(folder))
  const chosen = candidates.find((candidate) => present.has(candidate))
  if (!chosen) throw new CheckpointError(folder, `has no weights: none of ${candidates.join(', ')} exists`)
  const file = path.join(folder, chosen)
  return chosen.endsWith('.json') ? readSharded(file) : readHeader(file)
}
