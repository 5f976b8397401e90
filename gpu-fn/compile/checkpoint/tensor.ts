// The tensors of a checkpoint, by reference.
import type { ParameterDtype, Scale } from './formats/dtype.ts'

/** Contiguous bytes of a file: whole rows of numbers, row-major and little-endian. A value is the number × its scale. */
export type Part = { file: string; offset: number; bytes: number; dtype: ParameterDtype; scale: Scale }

/** The rows of `parts` stacked along axis 0. */
export type Tensor = { name: string; shape: readonly number[]; parts: readonly Part[] }

export type Layout = 'single-file' | 'diffusers'

/** The source of a network. */
export type Source = {
  layout: Layout
  /** Its author's name for it: the name of its file, or of the folder of its checkpoint. */
  name: string
}

export type Checkpoint = {
  /** Tensors of each network, under the family's names. */
  networks: Record<string, Map<string, Tensor>>
  sources: Record<string, Source>
  /** The configuration files that exist: config.json of each network, and `scheduler`. */
  config: Record<string, Record<string, unknown>>
  /** Directories of tokenizer files, inside a diffusers directory or beside a single file. */
  tokenizers: Record<string, string>
  /** Networks that a model_index.json lists as null: the checkpoint is complete without them. */
  declined: ReadonlySet<string>
  /** Networks that a model_index.json lists and that no path has, with the reason. */
  absent: ReadonlyMap<string, string>
  /** Notes on recognized, replaced and unread files, in sentences. */
  notes: readonly string[]
}
