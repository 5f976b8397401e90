// The events of a run.
import type { CONTENT_TYPES, Seed, WARNING_CODES } from '../contract.ts'

export type FinishedImage = {
  type: 'image'
  image: number
  seed: Seed
  width: number
  height: number
  content_type: (typeof CONTENT_TYPES)[keyof typeof CONTENT_TYPES]
  data: Uint8Array
}
export type Preview = {
  type: 'preview'
  image: number
  step: number
  width: number
  height: number
  content_type: typeof CONTENT_TYPES.jpeg
  data: Uint8Array
}
/** Times are seconds. `step` counts from 1, `image` from 0. */
export type PipelineEvent =
  | { type: 'warning'; code: (typeof WARNING_CODES)[number]; message: string }
  | { type: 'encoded'; seconds: number }
  /** `reused`: the step took an earlier velocity, without a run of the denoiser. */
  | { type: 'step'; image: number; step: number; steps: number; reused?: true }
  | Preview
  /** The image's pixels are complete. The next event, the image, needs the host only. */
  | { type: 'decoded'; image: number }
  | FinishedImage
  | { type: 'finished'; timings: { encode: number; denoise: number; decode: number } }
