// Generates the image of a receipt again, with the same package.
import { existsSync } from 'node:fs'
import path from 'node:path'
import type { PromptRole, ReceiptClaims } from '../../edge/results/receipt.ts'
import type { Package } from '../../gpu-fn/manifest.ts'
import type { Txt2ImgRequest } from '../../gpu-fn/pipeline/txt2img.ts'
import { findPackages, openPackage } from '../../gpu-fn/weights/packages.ts'
import { render, withPipeline } from '../local/models/render.ts'

export type Prompts = Pick<Txt2ImgRequest, PromptRole>

/** Finds the package with this digest: `root` or a directory below it. Throws if it is absent or a file of it has changed. */
export async function findPackage(root: string, digest: string): Promise<Package> {
  const packages = existsSync(path.join(root, 'manifest.json')) ? [await openPackage(root)] : await findPackages(root)
  const found = packages.find((each) => each.digest === digest)
  if (found) return openPackage(found.directory, { verify: true })
  const there = packages.map((each) => `${each.manifest.model} ${each.manifest.tier} is ${each.digest}`)
  throw new Error(`package ${digest} of the receipt is not in ${root}, which has ${there.join(', ') || 'no packages'}`)
}

/** Throws for an image that depends on files other than its package. */
export function checkReproducible({ inputs = [], parameters: { loras = [] } }: ReceiptClaims): void {
  const [files, adapters] = [inputs.map(({ name }) => name), loras.map(({ id }) => id)]
  if (files.length > 0) throw new Error(`not possible for images with an input image (${files.join(' and ')})`)
  if (adapters.length > 0) throw new Error(`not possible for images with LoRA adapters (${adapters.join(', ')})`)
}

/** Generates the image of a receipt and returns the encoded file. */
export async function reproduce(claims: ReceiptClaims, prompts: Prompts, pkg: Package): Promise<Uint8Array> {
  return withPipeline(pkg.directory, (pipeline) => render(pipeline, { ...claims.parameters, ...prompts }))
}
