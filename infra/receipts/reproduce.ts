// Makes the image of a receipt again, with the package that the receipt names.
import { existsSync } from 'node:fs'
import path from 'node:path'
import type { ReceiptClaims } from '../../edge/results/receipt.ts'
import type { Package } from '../../gpu-fn/manifest.ts'
import { findPackages, openPackage } from '../../gpu-fn/weights/packages.ts'
import { render, withPipeline } from '../local/render.ts'

export type Prompts = { prompt: string; negative_prompt: string }

/** Finds the package of this digest: `root` itself or a directory below it. Throws when it is not there or a file of it was changed. */
export async function findPackage(root: string, digest: string): Promise<Package> {
  const packages = existsSync(path.join(root, 'manifest.json')) ? [await openPackage(root)] : await findPackages(root)
  const found = packages.find((each) => each.digest === digest)
  if (found) return openPackage(found.directory, { verify: true })
  const there = packages.map((each) => `${each.manifest.model} ${each.manifest.tier} is ${each.digest}`)
  throw new Error(
    `the receipt names package ${digest}, which is not in ${root}; ${there.join(', ') || 'no package is there'}`,
  )
}

/** Runs the pipeline for the one image of a receipt and returns the file. */
export async function reproduce(claims: ReceiptClaims, prompts: Prompts, pkg: Package): Promise<Uint8Array> {
  return withPipeline(pkg.directory, (pipeline) => render(pipeline, { ...claims.parameters, ...prompts }))
}
