// The interface of a network family: a folder beside this file and a line in families.ts.
import type { Checkpoint } from '../compile/checkpoint/tensor.ts'
import type { BuildOptions, Lowerings, Model } from '../compile/graph/model.ts'

export type Family = {
  /** Names of the published variants, for `--variant`. */
  readonly variants: readonly string[]
  /** Opens a checkpoint under the names that the family's models read, without the networks that the options omit. Throws CheckpointError. */
  openCheckpoint(paths: readonly string[], options?: Pick<BuildOptions, 'tier' | 'omitT5'>): Promise<Checkpoint>
  /** Builds the graphs of a checkpoint. Throws CheckpointError for tensors that are missing, left over or contradictory. */
  buildModel(checkpoint: Checkpoint, paths: readonly string[], options: BuildOptions, lowerings: Lowerings): Model
}
