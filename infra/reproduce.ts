// Makes the image of a receipt again, with the package that the receipt names, and compares.
import { existsSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import type { ReceiptClaims } from '../edge/receipt.ts'
import { findPackages, openPackage, type Package } from '../gpu-fn/packages.ts'
import { openPipeline, txt2img } from '../gpu-fn/txt2img.ts'

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
  const pipeline = await openPipeline(pkg)
  try {
    const request = { ...claims.parameters, ...prompts, count: 1 }
    for await (const event of txt2img(pipeline, request, new AbortController().signal)) {
      if (event.type === 'image') return event.data
    }
    throw new Error('the pipeline gave no image')
  } finally {
    await pipeline.release()
  }
}

const pixels = (file: Uint8Array) => sharp(file).removeAlpha().raw().toBuffer({ resolveWithObject: true })

/** Peak signal-to-noise ratio in dB of two image files; Infinity for the same pixels. Throws when their sizes differ. */
export async function psnr(a: Uint8Array, b: Uint8Array): Promise<number> {
  const [one, other] = await Promise.all([pixels(a), pixels(b)])
  const size = ({ info }: typeof one) => `${info.width}x${info.height}`
  if (size(one) !== size(other)) throw new Error(`one image is ${size(one)}, the other ${size(other)}`)
  const squares = one.data.reduce((sum, value, i) => sum + (value - other.data[i]!) ** 2, 0)
  return 10 * Math.log10(255 ** 2 / (squares / one.data.length))
}
