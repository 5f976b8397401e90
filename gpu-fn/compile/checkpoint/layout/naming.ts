// The names that a network family uses in its checkpoints.
import type { TensorInfo } from '../formats/safetensors.ts'
import type { Tensor } from '../tensor.ts'

export type Naming = {
  /** Folder, network and stem of the weights files in the diffusers layout. */
  readonly folders: readonly { readonly folder: string; readonly network: string; readonly stem: string }[]
  /** Folders of tokenizer files. */
  readonly tokenizers: readonly string[]
  /** Prefixes of tensor names in a single file with several networks; the first match decides. */
  readonly prefixes: readonly (readonly [prefix: string, network: string])[]
  /** Tensors that are not read, with the reason. All others must be read by a network. */
  readonly skipped: readonly Skip[]
  /** Throws CheckpointError if the names are those of another model. */
  refuseOthers(file: string, names: Iterable<string>): void
  /** The name of a tensor in a GGUF file as in safetensors files. */
  renameGguf(name: string): string
  /** The network of a file's tensors without a prefix. Throws CheckpointError. */
  identify(file: string, tensors: ReadonlyMap<string, TensorInfo>): string
  /** The tensors of a network under the names and in the shapes that the family's models read. Throws CheckpointError. */
  adapt(network: string, file: string, tensors: Map<string, Tensor>): Map<string, Tensor>
}

export type Skip = { readonly networks: readonly string[] | 'all'; readonly pattern: RegExp; readonly reason: string }
