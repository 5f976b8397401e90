// What the programs of `npm run bench -- gpu` are told, and what they answer: JSON on both sides.
import * as z from 'zod'

/** Sizes are `width x height` in pixels, such as 1024x768. The first of `sizes` is that of the first image. */
type Common = {
  /** Name of the row in the table. */
  system: string
  /** Directory of what the float32 reference computed. */
  reference: string
  sizes: readonly string[]
  /** Sizes of images with all steps and guidance. */
  fullSizes: readonly string[]
  steps: number
  /** Timed runs of everything but images with all steps. */
  runs: number
  /** Make images only. */
  imagesOnly?: boolean
  prompt: string
  seed: number
  /** sigma · 1000 of the forward pass that is timed. */
  timestep: number
}
/** As gpu_torch.py reads it. */
export type TorchPlan = Common & {
  /** `fp8-backbone`: of quanto's weights only the transformer's; `fp8-lite`: all networks, and no T5. */
  way: 'reference' | 'eager' | 'compile' | 'fp8-weights' | 'fp8-backbone' | 'fp8-lite' | 'torchao'
  /** Compile the transformer in one piece instead of block by block. */
  whole: boolean
  device: 'cuda' | 'cpu'
  checkpoint: string
  /** Of all weights. */
  bytes: number
  channels: number
  downsample: number
  jointWidth: number
  /** Unix milliseconds. */
  started: number
}
export type OctetPlan = Common & {
  package: string
  /** Bytes of device memory that the pipeline may take; all there is unless given. */
  budget?: number
}

const size = z.string().nullish()
/** A line that a program prints. */
export const line = z.union([
  z.object({ phase: z.string(), size }),
  z.object({ metric: z.string(), size, value: z.number() }),
  z.object({ image: z.string(), size }),
  z.object({ failed: z.string(), size, error: z.string() }),
  z.object({ note: z.string() }),
])
export type Line = z.infer<typeof line>

/** A figure of the finished measurement, as it is kept. */
export const figure = z.object({
  variant: z.string(),
  device: z.string(),
  system: z.string(),
  metric: z.string(),
  size: z.string().nullable(),
  value: z.number().nullable(),
  /** Why there is no value. */
  error: z.string().optional(),
})
export type Figure = z.infer<typeof figure>

export const sidesOf = (size: string): { width: number; height: number } => {
  const [width, height] = size.split('x').map(Number) as [number, number]
  return { width, height }
}
