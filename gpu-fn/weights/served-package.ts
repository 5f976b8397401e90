// The package that a bucket serves for a model.
import { createHash } from 'node:crypto'
import type { Manifest } from '../manifest.ts'
import type { Bucket } from './download/bucket.ts'
import { manifestKeyOf, type PackageName, POINTER_BYTES, pointer, pointerKeyOf } from './layout.ts'
import { isInside, MANIFEST, MANIFEST_BYTES, PackageError, parseManifest } from './packages.ts'

export type ServedPackage = { digest: string; bytes: Uint8Array; manifest: Manifest }

/** The digest and the manifest of the package that the bucket serves now. Throws PackageError or BucketError. */
export async function findServed(bucket: Bucket, name: PackageName): Promise<ServedPackage> {
  const found = pointer.safeParse(parseJson(await bucket.read(pointerKeyOf(name), POINTER_BYTES)))
  if (!found.success) throw new PackageError(`${pointerKeyOf(name)} in ${bucket.url} is not a pointer to a package`)
  const digest = found.data.package
  const bytes = await bucket.read(manifestKeyOf(digest), MANIFEST_BYTES)
  const source = `${bucket.url}/${manifestKeyOf(digest)}`
  if (createHash('sha256').update(bytes).digest('hex') !== digest)
    throw new PackageError(`${source} does not match the SHA-256 in its name`)
  const manifest = parseManifest(source, bytes)
  assertNamed(source, manifest, name)
  const outside = Object.keys(manifest.files).find((file) => !isInside(file) || file === MANIFEST)
  if (outside !== undefined) throw new PackageError(`${source}: "${outside}" is not a path inside the package`)
  return { digest, bytes, manifest }
}

function assertNamed(source: string, manifest: Manifest, name: PackageName): void {
  const same = manifest.model === name.model && manifest.tier === name.tier && manifest.target === name.target
  if (!same) throw new PackageError(`${source} is ${describeName(manifest)}, not ${describeName(name)}`)
}

export const describeName = ({ model, tier, target }: PackageName) => `${model}:${tier} for ${target}`

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch {
    return undefined
  }
}
