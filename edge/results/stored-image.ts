import type { LoraChoice, Seed } from '#contract'

/** What made an image: the SHA-256 of the package's manifest, the device, and the adapters with the SHA-256 of their manifests. */
export type RunFacts = { package: string; device: string; loras?: (LoraChoice & { package: string })[] }

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
