// The tensors of a checkpoint, by reference.
import type { ParameterDtype } from './formats/dtype.ts'

/** Contiguous bytes of a file. */
export type Part = { file: string; offset: number; bytes: number }

/** The rows of `parts` stacked along axis 0, row-major and little-endian; a value is the stored number × `scale`. */
export type Tensor = {
  name: string
  dtype: ParameterDtype
  shape: readonly number[]
  parts: readonly Part[]
  scale: number
}

export type Checkpoint = {
  /** `diffusers` when any path was a directory. */
  layout: 'single-file' | 'diffusers'
  /** Tensors of each network, under the family's names. */
  networks: Record<string, Map<string, Tensor>>
  /** Parsed config.json of each network, and of `scheduler`, in the diffusers layout (`{}` if absent); empty for single files. */
  config: Record<string, Record<string, unknown>>
  /** Directories of tokenizer files, inside a diffusers directory or beside a single file. */
  tokenizers: Record<string, string>
}
