// The published SD3.5 checkpoints without their weights: headers/ has the header or JSON content of every file, as written by
// test/support/checkpoints/make-headers.ts.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import { VARIANTS } from '../../gpu-fn/models/sd35/variants.ts'

export const HEADERS = path.join(import.meta.dirname, 'headers')
export const PUBLISHED = ['large', 'large-turbo', 'medium'] as const
export type PublishedModel = (typeof PUBLISHED)[number]
export const LAYOUTS = ['single-file', 'diffusers'] as const
export type Layout = (typeof LAYOUTS)[number]
/** Path in the checkpoint → a safetensors header, or the content of a JSON file. */
export type HeaderFiles = Record<string, Record<string, unknown>>
export type NamedShape = { name: string; shape: readonly number[] }

export async function readHeaders(name: PublishedModel, layout: Layout): Promise<HeaderFiles> {
  const packed = await readFile(path.join(HEADERS, `${name}.${layout}.json.gz`))
  return JSON.parse((await promisify(gunzip)(packed)).toString())
}

export function readShapes(header: Record<string, unknown>): NamedShape[] {
  const { __metadata__, ...tensors } = header as Record<string, { shape: readonly number[] }>
  return Object.entries(tensors).map(([name, { shape }]) => ({ name, shape }))
}

export const depthOf = (variant: PublishedModel) => VARIANTS.find(({ name }) => name === variant)!.depth

/** The tensors of transformer and autoencoder in the single file. With fewer `blocks`, the last published block follows the first ones. */
export async function readSingleFileShapes(variant: PublishedModel, blocks = depthOf(variant)): Promise<NamedShape[]> {
  const files = Object.entries(await readHeaders(variant, 'single-file'))
  const [, header] = files.find(([file]) => !file.includes('/'))!
  const last = depthOf(variant) - 1
  return readShapes(header).flatMap(({ name, shape }) => {
    const [, before, block, after] = /^(model\.diffusion_model\.joint_blocks\.)(\d+)(\..*)$/.exec(name) ?? []
    if (block === undefined || Number(block) < blocks - 1) return [{ name, shape }]
    return Number(block) === last ? [{ name: `${before}${blocks - 1}${after}`, shape }] : []
  })
}
