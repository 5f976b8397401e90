// Where packages lie in a bucket. Blobs and manifests have their SHA-256 as name and never change; a pointer says which package of a model
// is served, so that taking one back is writing the pointer again.
import * as z from 'zod'
import { sha256Hex, type TIERS } from '../contract.ts'

const NAME = /^[a-z0-9][a-z0-9-]{0,63}$/

/** What of a model is wanted: its name, tier and target, as its manifest has them. */
export type PackageName = { model: string; tier: (typeof TIERS)[number]; target: string }

/** Throws unless given a SHA-256, since anything else could address another key. */
export const blobKey = (sha256: string) => `blobs/${sha256Hex.parse(sha256)}`
/** Throws unless given a SHA-256. */
export const manifestKey = (digest: string) => `manifests/${sha256Hex.parse(digest)}.json`
export const pointerKey = ({ model, tier, target }: PackageName) => `models/${model}/${tier}/${target}.json`

/** The content of a pointer. `previous`, newest first, are the packages that it pointed to before. */
export const pointer = z.strictObject({ package: sha256Hex, previous: z.array(sha256Hex).max(20).default([]) })
export type Pointer = z.infer<typeof pointer>

export const isModelName = (name: string) => NAME.test(name)
export const POINTER_BYTES = 64 * 1024
