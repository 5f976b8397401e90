// An SD3.5 checkpoint in either published layout, read into one vocabulary: Stability's names.
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { assembleNetwork } from './assemble.ts'
import { findTokenizers, isDirectory, readDiffusersDirectory } from './diffusers-directory.ts'
import type { ParameterDtype } from './dtype.ts'
import { CheckpointError } from './error.ts'
import { type RawNetwork, splitNetworks } from './layouts.ts'
import { readHeader } from './safetensors.ts'
import { readSharded } from './shards.ts'

export type CheckpointNetwork = 'transformer' | 'clip_l' | 'clip_g' | 't5' | 'vae'
export type TokenizerName = 'tokenizer' | 'tokenizer_2' | 'tokenizer_3'

/** Contiguous bytes of a file. */
export type Part = { file: string; offset: number; bytes: number }

/** The rows of `parts` stacked along axis 0, row-major and little-endian; a value is what is stored × `scale`. */
export type Tensor = {
  name: string
  dtype: ParameterDtype
  shape: readonly number[]
  parts: readonly Part[]
  scale: number
}

/**
 * `transformer` has the names of Stability's mmditx.py (`joint_blocks.0.x_block.attn.qkv.weight`), the text encoders those of
 * transformers (`text_model.…`, `shared.weight`, `encoder.block.…`), `vae` those of LDM (`decoder.up.3.block.0.conv1.weight`) with the
 * attention's projections as matrices [C, C]. Nothing of the autoencoder's encoder is kept.
 */
export type Checkpoint = {
  /** `diffusers` when any path was a directory. */
  layout: 'single-file' | 'diffusers'
  networks: Partial<Record<CheckpointNetwork, Map<string, Tensor>>>
  /** Parsed config.json of each network of the diffusers layout, `{}` where there is none; no keys for single files. */
  config: Partial<Record<CheckpointNetwork | 'scheduler', Record<string, unknown>>>
  /** Directories of tokenizer files, inside a diffusers directory or beside a single file. */
  tokenizers: Partial<Record<TokenizerName, string>>
}

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
