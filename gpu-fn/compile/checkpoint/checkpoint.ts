// An SD3.5 checkpoint in either published layout, read into one vocabulary: Stability's names.
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { assembleNetwork } from './assemble.ts'
import { findTokenizers, isDirectory, readDiffusersDirectory } from './diffusers-directory.ts'
import { CheckpointError } from './error.ts'
import { type RawNetwork, splitNetworks } from './layouts.ts'
import { readHeader } from './safetensors.ts'
import { readSharded } from './shards.ts'
import type { Checkpoint, CheckpointNetwork } from './tensor.ts'

/**
 * Opens a diffusers directory, or safetensors files (or their `.safetensors.index.json`) of the single-file layout, or both kinds
 * together. Only headers and scales are read. Throws CheckpointError for what is malformed, left over or given twice; whether a
 * network has every parameter, and no other, is for the model that reads it to say.
 */
export async function openCheckpoint(paths: readonly string[]): Promise<Checkpoint> {
  const checkpoint: Checkpoint = { layout: 'single-file', networks: {}, config: {}, tokenizers: {} }
  const raw = new Map<CheckpointNetwork, RawNetwork>()
  for (const given of paths) {
    const directory = await isDirectory(given)
    const source = directory ? await openDirectory(given, checkpoint) : await openFile(given)
    for (const [network, tensors] of source) {
      const earlier = raw.get(network)
      if (earlier) throw new CheckpointError(tensors.file, `holds ${network}, which ${earlier.file} holds already`)
      raw.set(network, tensors)
    }
    checkpoint.tokenizers = {
      ...(await findTokenizers(directory ? given : path.dirname(given))),
      ...checkpoint.tokenizers,
    }
  }
  for (const [network, tensors] of raw) checkpoint.networks[network] = await assembleNetwork(network, tensors)
  return checkpoint
}

async function openDirectory(directory: string, checkpoint: Checkpoint): Promise<Map<CheckpointNetwork, RawNetwork>> {
  const { files, config } = await readDiffusersDirectory(directory)
  checkpoint.layout = 'diffusers'
  checkpoint.config = { ...checkpoint.config, ...config }
  return new Map([...files].map(([network, { file, tensors }]) => [network, { file, tensors }]))
}

async function openFile(file: string): Promise<Map<CheckpointNetwork, RawNetwork>> {
  if (file.endsWith('.safetensors')) return splitNetworks(await readHeader(file))
  if (file.endsWith('.json')) return splitNetworks(await readSharded(file))
  if (!(await stat(file).catch(() => undefined))) throw new CheckpointError(file, 'no such file or directory')
  throw new CheckpointError(file, 'is neither a directory, nor a .safetensors file, nor a .safetensors.index.json')
}
