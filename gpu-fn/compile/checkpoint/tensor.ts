// The tensors of a checkpoint, by reference.
import type { ParameterDtype } from './dtype.ts'

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
