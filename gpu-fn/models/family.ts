// The interface of a network family: a folder beside this file and a line in families.ts.
import type { Checkpoint } from '../compile/checkpoint/tensor.ts'
import type { Graph } from '../compile/graph/graph.ts'
import type { BuildOptions, Lowerings, Model } from '../compile/graph/model.ts'
import type { ControlnetManifest, Manifest, Tier } from '../manifest.ts'

/**
 * The rows of a weight that a module of a LoRA updates. `swap`: the file has the halves of its rows in the other order. A module of
 * the architecture may be without effect.
 */
export type LoraTarget =
  | {
      readonly network: string
      readonly weight: string
      /** Shape of the whole weight in the checkpoint. */
      readonly shape: readonly number[]
      readonly rows: readonly [start: number, end: number]
      readonly swap: boolean
    }
  | { readonly unused: string }
export type LoraNames = { find(module: string): LoraTarget | undefined }

/** The graphs of a ControlNet, and their shape in the manifest. */
export type Controlnet = {
  readonly graphs: { readonly control_conditioning: Graph; readonly control: Graph }
  /** `control` with the same weights, for GPUs without support for our kernels; null for targets without kernels. */
  readonly withoutKernels: Graph | null
  readonly shape: ControlnetManifest['shape']
}

export type Family = {
  /** Names of the published variants, for `--variant`. */
  readonly variants: readonly string[]
  /** Opens a checkpoint under the names that the family's models read, without the networks that the options omit. Throws CheckpointError. */
  openCheckpoint(paths: readonly string[], options?: Pick<BuildOptions, 'tier' | 'omitT5'>): Promise<Checkpoint>
  /** Builds the graphs of a checkpoint. Throws CheckpointError for tensors that are missing, unexpected or contradictory. */
  buildModel(checkpoint: Checkpoint, paths: readonly string[], options: BuildOptions, lowerings: Lowerings): Model
  /** Opens a ControlNet: a diffusers directory or Stability's file. Throws CheckpointError. */
  openControlnet(path: string): Promise<Checkpoint>
  /** Builds the graphs of a ControlNet. Throws CheckpointError as `buildModel` does. */
  buildControlnet(
    checkpoint: Checkpoint,
    paths: readonly string[],
    options: { readonly tier: Tier },
    lowerings: Lowerings,
  ): Controlnet
  /** The modules of a package that a LoRA may adapt, by their names in LoRA files. */
  loraNames(base: Manifest): LoraNames
}
