// The directory layout of diffusers: a folder for each network, with weights in one file or in shards and a config.json.
import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../error.ts'
import type { SafetensorsFile } from '../formats/safetensors.ts'
import { readHeader } from '../formats/safetensors.ts'
import type { Checkpoint } from '../tensor.ts'
import type { Naming } from './naming.ts'
import { readJsonObject, readSharded } from './shards.ts'

/** Opens the weights of the network folders and reads the configuration files. Throws CheckpointError if there is no such folder. */
export async function readDiffusersDirectory(directory: string, { folders }: Naming) {
  const files = new Map<string, SafetensorsFile>()
  const config: Checkpoint['config'] = {}
  for (const { folder, network, stem } of folders) {
    const at = path.join(directory, folder)
    if (!(await isDirectory(at))) continue
    files.set(network, await readWeights(at, stem))
    config[network] = await readOptional(path.join(at, 'config.json'))
  }
  if (files.size === 0) {
    const names = folders.map(({ folder }) => folder).join(', ')
    throw new CheckpointError(directory, `is not a diffusers checkpoint: it has none of the folders ${names}`)
  }
  config.scheduler = await readOptional(path.join(directory, 'scheduler', 'scheduler_config.json'))
  return { files, config }
}

/** The tokenizer folders in `directory`. */
export async function findTokenizers(directory: string, { tokenizers }: Naming): Promise<Checkpoint['tokenizers']> {
  const found: Checkpoint['tokenizers'] = {}
  for (const name of tokenizers) {
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

/** Prefers full precision to the `fp16` variant, whose index diffusers names `index.fp16.json`. */
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
