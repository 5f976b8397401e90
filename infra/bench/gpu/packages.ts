// The checkpoint and the packages that `npm run bench -- gpu` measures, made once in its directory.
import fs from 'node:fs/promises'
import path from 'node:path'
import { compile } from '../../../gpu-fn/compile/compile.ts'
import type { Manifest } from '../../../gpu-fn/manifest.ts'
import { type FullSize, writeFullSizeCheckpoint } from '../../checkpoints/full-size.ts'
import { writeTinyCheckpoint } from '../../checkpoints/tiny/checkpoint.ts'
import { TINY_VARIANTS, type TinyVariant } from '../../checkpoints/tiny/variants.ts'
import { makeOnce } from '../../local/package-cache.ts'

/** Tiny variants try the benchmark out, on a CPU as well. */
export type GpuVariant = FullSize | TinyVariant
export type Target = Manifest['target']
export type Tier = Exclude<Manifest['tier'], 'fp32'>

const isTiny = (variant: GpuVariant): variant is TinyVariant => variant in TINY_VARIANTS

/** Writes the checkpoint of a variant below `directory`, unless it is there. */
export async function makeCheckpoint(variant: GpuVariant, directory: string): Promise<string> {
  const checkpoint = path.join(directory, 'checkpoint')
  await fs.mkdir(directory, { recursive: true })
  await makeOnce(checkpoint, (out) =>
    isTiny(variant) ? writeTinyCheckpoint(out, { variant, dtype: 'BF16' }) : writeFullSizeCheckpoint(variant, out),
  )
  return checkpoint
}

/** The only package in a directory of its own, compiled unless it is there. */
export async function makePackage(
  { variant, target, tier }: { variant: GpuVariant; target: Target; tier: Tier },
  directory: string,
): Promise<string> {
  const out = path.join(directory, `${target}-${tier}`, 'package')
  await fs.mkdir(path.dirname(out), { recursive: true })
  const about = { target, variant: isTiny(variant) ? 'custom' : variant, name: variant }
  const checkpoint = path.join(directory, 'checkpoint')
  if (tier !== 'fp8-lite') await makeOnce(out, (at) => compile({ checkpoint: [checkpoint], out: at, tier, ...about }))
  else await makeOnce(out, async (at) => leaveT5Out(await makePackage({ variant, target, tier: 'fp8' }, directory), at))
  return out
}

/** The fp8-lite package of an fp8 one, on the same weight files: the two differ in T5 alone. */
export async function leaveT5Out(from: string, out: string): Promise<void> {
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
