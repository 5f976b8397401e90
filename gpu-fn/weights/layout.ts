// The layout of packages in a bucket. Blobs and manifests are immutable and named by their SHA-256. A pointer names the package of a model
// that is served; a rollback rewrites the pointer.
import * as z from 'zod'
import { sha256Hex } from '../contract.ts'
import type { Tier } from '../manifest.ts'

/** Model, tier and target of a package, as in its manifest. */
export type PackageName = { model: string; tier: Tier; target: string }

/** Throws for a value that is not a SHA-256, because it could address another key. */
export const blobKeyOf = (sha256: string) => `blobs/${sha256Hex.parse(sha256)}`
/** Throws for a value that is not a SHA-256. */
export const manifestKeyOf = (digest: string) => `manifests/${sha256Hex.parse(digest)}.json`
export const pointerKeyOf = ({ model, tier, target }: PackageName) => `models/${model}/${tier}/${target}.json`

/** The content of a pointer. `previous`: the packages that it named before, newest first. */
export const pointer = z.strictObject({ package: sha256Hex, previous: z.array(sha256Hex).max(20).default([]) })
export type Pointer = z.infer<typeof pointer>

export const POINTER_BYTES = 64 * 1024
