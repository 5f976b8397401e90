import type { Seed } from '#contract'

/** A finished image. */
export type StoredImage = {
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
  /** SHA-256 of the manifest of the package that made this file, and the device it ran on. */
  package: string
  device: string
  /** Whether its owner has deleted it. */
  deleted?: true
  /** Compact JWS, present once the job has succeeded; see receipts.ts. */
  receipt?: string
}
