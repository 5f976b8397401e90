// The checkpoint and packages of `npm run bench -- gpu`, created once in its directory.
import fs from 'node:fs/promises'
import path from 'node:path'
import { compile } from '../../../gpu-fn/compile/compile.ts'
import { hasT5 } from '../../../gpu-fn/contract.ts'
import type { Manifest } from '../../../gpu-fn/manifest.ts'
import { type FullSize, writeFullSizeCheckpoint } from '../../checkpoints/full-size.ts'
import { writeTinyCheckpoint } from '../../checkpoints/tiny/checkpoint.ts'
import { TINY_VARIANTS, type TinyVariant } from '../../checkpoints/tiny/variants.ts'
import { prepareBuiltInPackage } from '../../local/models/built-in-model.ts'
import { makeOnce } from '../../local/models/package-cache.ts'

/** Tiny variants are for dry runs, which need no GPU. */
export type GpuVariant = FullSize | TinyVariant
export type Target = Manifest['target']
export type Tier = Exclude<Manifest['tier'], 'fp32'>

const isTiny = (variant: GpuVariant): variant is TinyVariant => variant in TINY_VARIANTS

/** Writes the checkpoint of a variant below `directory`, unless it exists. */
export async function makeCheckpoint(variant: GpuVariant, directory: string): Promise<string> {
  const checkpoint = path.join(directory, 'checkpoint')
  await fs.mkdir(directory, { recursive: true })
  await makeOnce(checkpoint, (out) =>
    isTiny(variant) ? writeTinyCheckpoint(out, { variant, dtype: 'BF16' }) : writeFullSizeCheckpoint(variant, out),
  )
  return checkpoint
}

/** Path of the built-in nano package, or of a package with random weights, which is created in `directory` if missing. */
export async function preparePackage(about: {
  model: GpuVariant | 'nano'
  target: Target
  directory: string
  /** fp8 by default. */
  tier?: Tier
}): Promise<string> {
  const { model, target, directory, tier = 'fp8' } = about
  if (model === 'nano') return prepareBuiltInPackage('nano', tier)
  const own = path.join(directory, model)
  await makeCheckpoint(model, own)
  return makePackage({ variant: model, target, tier }, own)
}

/** `small`: 8-bit adaLN and 4-bit T5 weights. */
type AboutPackage = {
  readonly variant: GpuVariant
  readonly target: Target
  readonly tier: Tier
  readonly small?: boolean | undefined
}

/** Directory name of a package. */
export const formatPackageName = ({ target, tier, small }: AboutPackage): string =>
  `${target}-${tier}${small ? '-small' : ''}`

/** Compiles one package, unless its directory exists. */
export async function makePackage(wanted: AboutPackage, directory: string): Promise<string> {
  const { variant, target, tier, small } = wanted
  const out = path.join(directory, formatPackageName(wanted), 'package')
  await fs.mkdir(path.dirname(out), { recursive: true })
  const bits = small ? ({ adalnBits: 8, t5Bits: 4 } as const) : {}
  const about = { target, variant: isTiny(variant) ? 'custom' : variant, name: variant, ...bits }
  const checkpoint = path.join(directory, 'checkpoint')
  if (hasT5(tier)) await makeOnce(out, (at) => compile({ checkpoint: [checkpoint], out: at, tier, ...about }))
  else await makeOnce(out, async (at) => omitT5(await makePackage({ variant, target, tier: 'fp8' }, directory), at))
  return out
}

/** Derives the fp8-lite package from an fp8 package, with links to its weights: they differ only in T5. */
export async function omitT5(from: string, out: string): Promise<void> {
  const manifest: Manifest = JSON.parse(await fs.readFile(path.join(from, 'manifest.json'), 'utf8'))
  const { text, networks } = manifest
  const t5 = text.encoders.find(({ name }) => name === 't5')!
  const remains = (network: string) => !t5.graphs.includes(network)
  const isOfT5 = (name: string) =>
    name.startsWith(`${t5.tokenizer}/`) || !remains(name.replace(/\.(onnx|weights)$/, ''))
  const files = Object.entries(manifest.files).filter(([name]) => !isOfT5(name))
  for (const [name] of files) {
    await fs.mkdir(path.dirname(path.join(out, name)), { recursive: true })
    await fs.link(path.join(from, name), path.join(out, name))
  }
  const lite = {
    ...manifest,
    tier: 'fp8-lite',
    text: { ...text, encoders: text.encoders.filter((encoder) => encoder !== t5) },
    networks: Object.fromEntries(Object.entries(networks).filter(([name]) => remains(name))),
    weights: Object.fromEntries(Object.entries(manifest.weights).filter(([name]) => !isOfT5(name))),
    files: Object.fromEntries(files),
  }
  await fs.writeFile(path.join(out, 'manifest.json'), `${JSON.stringify(lite, null, 2)}\n`)
}
