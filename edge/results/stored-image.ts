import type { ControlChoice, LoraChoice, Seed } from '#contract'

/** An adapter or a ControlNet with the SHA-256 of its manifest. */
type Run<Choice> = Choice & { package: string }

/** The origin of an image: the SHA-256 of the package's manifest, the device, the adapters and the ControlNets. */
export type RunFacts = {
  package: string
  device: string
  loras?: Run<LoraChoice>[]
  controls?: Run<ControlChoice>[]
}

/** A finished image. */
export type StoredImage = RunFacts & {
  image: number
  seed: Seed
  width: number
  height: number
  content_type: string
  bytes: number
  sha256: string
  /** Key in R2. */
  key: string
  /** Unix seconds. */
  expires_at: number
  /** Whether its owner has deleted it. */
  deleted?: true
  /** Compact JWS, present once the job has succeeded; see receipts.ts. */
  receipt?: string
}
