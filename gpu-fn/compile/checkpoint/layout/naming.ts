// The names that a network family uses in its checkpoints.
import type { TensorInfo } from '../formats/safetensors.ts'
import type { Layout, Tensor } from '../tensor.ts'

/** Folder, network and stem of the weights files in the diffusers layout. */
export type Component = { readonly folder: string; readonly network: string; readonly stem: string }

export type Naming = {
  readonly folders: readonly Component[]
  /** The names of the networks in messages. */
  readonly titles: Readonly<Record<string, string>>
  /** Class names in model_index.json. */
  readonly pipelines: RegExp
  /** Folders of tokenizer files by text encoder. */
  readonly tokenizers: Readonly<Record<string, string>>
  /** Prefixes of tensor names in a single file with several networks; the first match decides. */
  readonly prefixes: readonly (readonly [prefix: string, network: string])[]
  /** Tensors that are not read, with the reason. All others must be read by a network. */
  readonly skipped: readonly Skip[]
  /** Throws CheckpointError if the names are those of another model. */
  refuseOthers(file: string, names: Iterable<string>): void
  /** The name of a tensor in a GGUF file as in safetensors files. */
  renameGguf(name: string): string
  /**
   * The network of a file's tensors without a prefix. `expected`, the network of its folder, decides if the tensors do not. Throws
   * CheckpointError for tensors of no network, or of another network than `expected`.
   */
  identify(file: string, tensors: ReadonlyMap<string, TensorInfo>, expected?: string): string
  /** Renames a network's tensors from the names of another implementation to the published ones. */
  translate(network: string, tensors: Map<string, TensorInfo>): Map<string, TensorInfo>
  /** The tensors of a network under the names and in the shapes that the family's models read. Throws CheckpointError. */
  adapt(network: string, file: string, tensors: Map<string, Tensor>): Map<string, Tensor>
}

export type Skip = {
  readonly networks: readonly string[] | 'all'
  /** Both layouts by default. */
  readonly layout?: Layout
  readonly pattern: RegExp
  readonly reason: string
}
