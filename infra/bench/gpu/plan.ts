// The plans and output lines of the programs of `npm run bench -- gpu`, as JSON.
import * as z from 'zod'

/** Sizes are `width x height` in pixels, such as 1024x768. The first image has the first of `sizes`. */
type Common = {
  /** Name of the row in the table. */
  system: string
  /** Directory of the float32 reference's results. */
  reference: string
  sizes: readonly string[]
  /** Sizes of images with all steps and guidance. */
  fullSizes: readonly string[]
  steps: number
  /** Timed runs, except of images with all steps. */
  runs: number
  /** Whether to measure images only, and no parts of the pipeline. */
  imagesOnly?: boolean
  prompt: string
  seed: number
  /** sigma · 1000 of the timed forward pass. */
  timestep: number
}
/** The input of gpu_torch.py. */
export type TorchPlan = Common & {
  /** `fp8-backbone`: quanto's FP8 for the transformer only; `fp8-lite`: for all networks, without T5. */
  way: 'reference' | 'eager' | 'compile' | 'fp8-weights' | 'fp8-backbone' | 'fp8-lite' | 'torchao'
  /** Whether torch.compile applies to the whole transformer instead of each block. */
  whole: boolean
  device: 'cuda' | 'cpu'
  checkpoint: string
  /** Size of all weights. */
  bytes: number
  channels: number
  downsample: number
  jointWidth: number
  /** Unix milliseconds. */
  started: number
}
export type OctetPlan = Common & {
  package: string
  /** Device memory budget of the pipeline in bytes; unlimited by default. */
  budget?: number
}

const size = z.string().nullish()
/** An output line of a program. */
export const line = z.union([
  z.object({ phase: z.string(), size }),
  z.object({ metric: z.string(), size, value: z.number() }),
  z.object({ image: z.string(), size }),
  z.object({ failed: z.string(), size, error: z.string() }),
  z.object({ note: z.string() }),
])
export type Line = z.infer<typeof line>

/** A figure in the file of results. */
export const figure = z.object({
  variant: z.string(),
  device: z.string(),
  system: z.string(),
  metric: z.string(),
  size: z.string().nullable(),
  value: z.number().nullable(),
  /** The reason for a missing value. */
  error: z.string().optional(),
})
export type Figure = z.infer<typeof figure>

/** Prefixes of the metrics of a start's parts: the seconds at which each begins and ends. */
export const PART_FROM = 'part_from_s '
export const PART_TO = 'part_to_s '

export const sidesOf = (size: string): { width: number; height: number } => {
  const [width, height] = size.split('x').map(Number) as [number, number]
  return { width, height }
}

/** Parses a line of JSON; undefined if it is invalid. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
