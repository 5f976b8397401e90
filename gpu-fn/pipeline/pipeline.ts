// An open package, ready to generate images.
import type { NetworkName, Package } from '../manifest.ts'
import type { Session } from '../runtime/session.ts'
import type { KnownWords } from '../tokenizer/known-words.ts'
import type { Denoiser } from './denoise.ts'
import type { TextEncoder } from './prompt/prompt.ts'

export type Size = { width: number; height: number }

/** The parts of a memory plan that affect runs. */
export type Placement = {
  /** Side of the autoencoder's tiles in latents; null decodes the image in one piece. */
  tile: number | null
  /** Networks whose weights are on the device during their runs only, one network at a time. */
  offloaded: readonly NetworkName[]
}

/** Not thread-safe. */
export type Pipeline = Denoiser & {
  package: Package
  encoders: readonly TextEncoder[]
  /** The vocabulary of the model; null if unlimited. */
  words?: KnownWords | null
  /** The denoiser on each further device; empty with one device, or if the denoiser does not fit beside the other networks. */
  others: readonly Denoiser[]
  /** Whether one run of the step graph takes several samples. */
  batched: boolean
  /** The number of jobs that may share a run of the step graph; 1 by default. */
  sharing?: number | undefined
  vaeDecoder: Session
  /** Null if the package takes no input images. */
  vaeEncoder: Session | null
  plan: Placement
  /** Extends the plan to images of this size, if all earlier ones were smaller. Throws `BudgetError`. */
  fit(size: Size): Promise<void>
}
