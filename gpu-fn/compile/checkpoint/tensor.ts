// The tensors of a checkpoint, by reference.
import type { ParameterDtype, Scale } from './formats/dtype.ts'

/** Contiguous bytes of a file: whole rows of numbers, row-major and little-endian. A value is the number × its scale. */
export type Part = { file: string; offset: number; bytes: number; dtype: ParameterDtype; scale: Scale }

/** The rows of `parts` stacked along axis 0. */
export type Tensor = { name: string; shape: readonly number[]; parts: readonly Part[] }

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
