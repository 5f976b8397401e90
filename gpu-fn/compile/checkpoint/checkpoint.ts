// Opens a checkpoint in either published layout, with the tensor names of its network family.
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from './error.ts'
import { readGguf } from './formats/gguf.ts'
import { identifyFormat } from './formats/open-file.ts'
import { readHeader } from './formats/safetensors.ts'
import { assembleNetwork } from './layout/assemble.ts'
import { findTokenizers, isDirectory, readDiffusersDirectory } from './layout/diffusers-directory.ts'
import { type RawNetwork, splitNetworks } from './layout/layouts.ts'
import type { Naming } from './layout/naming.ts'
import { readSharded } from './layout/shards.ts'
import type { Checkpoint } from './tensor.ts'

/**
 * Opens a diffusers directory, or safetensors or GGUF files (or their `.safetensors.index.json`) of the single-file layout, or both kinds
 * together. Only headers and scales are read. Throws CheckpointError for malformed files and for tensors without a network or of a network
 * that another file has. Missing and superfluous parameters are found by the model that reads them.
 */
export async function readCheckpoint(paths: readonly string[], naming: Naming): Promise<Checkpoint> {
  const checkpoint: Checkpoint = { layout: 'single-file', networks: {}, config: {}, tokenizers: {} }
  const raw = new Map<string, RawNetwork>()
  for (const given of paths) {
    const directory = await isDirectory(given)
    const source = directory ? await openDirectory(given, checkpoint, naming) : await openFile(given, naming)
    for (const [network, tensors] of source) {
      const earlier = raw.get(network)
      if (earlier) throw new CheckpointError(tensors.file, `contains ${network}, which is in ${earlier.file} as well`)
      raw.set(network, tensors)
    }
    checkpoint.tokenizers = {
      ...(await findTokenizers(directory ? given : path.dirname(given), naming)),
      ...checkpoint.tokenizers,
    }
  }
  for (const [network, tensors] of raw) checkpoint.networks[network] = assembleNetwork(network, tensors, naming)
  return checkpoint
}

async function openDirectory(
  directory: string,
  checkpoint: Checkpoint,
  naming: Naming,
): Promise<Map<string, RawNetwork>> {
  const { files, config } = await readDiffusersDirectory(directory, naming)
  checkpoint.layout = 'diffusers'
  checkpoint.config = { ...checkpoint.config, ...config }
  return new Map([...files].map(([network, { file, tensors }]) => [network, { file, tensors }]))
}

async function openFile(file: string, naming: Naming): Promise<Map<string, RawNetwork>> {
  if (!(await stat(file).catch(() => undefined))) throw new CheckpointError(file, 'no such file or directory')
  if (file.endsWith('.json')) return splitNetworks(await readSharded(file), naming)
  if ((await identifyFormat(file)) === 'gguf') return splitNetworks(await readGguf(file, naming.renameGguf), naming)
  if (file.endsWith('.safetensors')) return splitNetworks(await readHeader(file), naming)
  throw new CheckpointError(
    file,
    'is neither a directory, nor a .safetensors file, nor a .safetensors.index.json, nor a GGUF file',
  )
}
