// Golden outputs of diffusers and transformers on the tiny checkpoints, and the packages that must produce the same.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll } from 'vitest'
import type { Manifest, NetworkName } from '../../../gpu-fn/manifest.ts'
import { openSession } from '../../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../../gpu-fn/runtime/session.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { TINY_VARIANTS, type TinyVariant } from '../../../infra/checkpoints/tiny/variants.ts'
import { compileTiny } from './compile.ts'
import { type FloatTensor, readTensors } from './tensors.ts'

const GOLDEN = path.join(import.meta.dirname, '../../golden/networks')

/**
 * The largest relative error that is allowed, in either tier: the reference has the same quantized weights. A wrong activation function
 * causes an error of 3e-5, float32 sums in another order 3e-6.
 */
export const TOLERANCE = 1e-5

export type Subject = {
  variant: TinyVariant
  layout: 'diffusers' | 'single-file'
  tier: 'fp32' | 'fp8'
}

type Cases = {
  transformer: { name: string; batch: number; height: number; width: number; tokens: number; timesteps: number[] }[]
  clip_l: { name: string; lengths: number[]; every: number }[]
  clip_g: { name: string; lengths: number[]; every: number }[]
  t5: { name: string; batch: number; tokens: number; every: number }[]
  vae_decoder: { name: string; batch: number; height: number; width: number }[]
  networks: Record<TinyVariant, (keyof Omit<Cases, 'networks'>)[]>
}

/** The inputs that the golden outputs were made from. */
export const CASES: Cases = JSON.parse(await readFile(path.join(GOLDEN, 'cases.json'), 'utf8'))

/** Every tiny checkpoint that has golden outputs of `network`: each tier, and each layout that can carry it. */
export function listSubjects(network: keyof Omit<Cases, 'networks'>): Subject[] {
  const variants = (Object.keys(CASES.networks) as TinyVariant[]).filter((v) => CASES.networks[v].includes(network))
  const tiers = ['fp32', 'fp8'] as const
  return variants.flatMap((variant) => {
    const layouts = variant === 'tiny-odd' ? (['diffusers'] as const) : (['diffusers', 'single-file'] as const)
    return layouts.flatMap((layout) => tiers.map((tier) => ({ variant, layout, tier })))
  })
}

export const shapeOf = (subject: Subject) => TINY_VARIANTS[subject.variant]

/** The golden outputs of a subject; of a single file, CLIP-L's pooled states are those without its projection. */
export async function goldenOf({ variant, tier, layout }: Subject): Promise<(name: string) => FloatTensor> {
  const file = path.join(GOLDEN, `${variant}.${tier}`)
  const tensors = await readTensors(`${file}.safetensors`)
  if (layout === 'single-file' && [...tensors.keys()].some((name) => name.startsWith('clip_l.')))
    for (const [name, tensor] of await readTensors(`${file}.single-file.safetensors`)) tensors.set(name, tensor)
  return (name) => {
    const tensor = tensors.get(name)
    if (!tensor) throw new Error(`${variant}.${tier} has no golden ${name}`)
    return tensor
  }
}

export type OpenNetworks = {
  manifest: Manifest
  directory: string
  run(network: NetworkName, inputs: Record<string, Tensor>): Promise<Record<string, FloatTensor>>
  release(): Promise<void>
}

/** Compiles a subject and opens the graphs named. */
export async function openNetworks({ variant, layout, tier }: Subject, names: NetworkName[]): Promise<OpenNetworks> {
  const { directory, manifest } = await openPackage(await compileTiny({ variant, layout, tier }))
  const sessions = new Map(
    await Promise.all(
      names.map(async (name) => {
        const file = path.join(directory, manifest.networks[name]!.file)
        return [name, await openSession(file, { target: 'cpu' })] as const
      }),
    ),
  )
  return {
    manifest,
    directory,
    run: async (network, inputs) => (await sessions.get(network)!.run(inputs)) as Record<string, FloatTensor>,
    release: async () => void (await Promise.all([...sessions.values()].map((session) => session.release()))),
  }
}

/** Opens the graphs before the tests of a suite and releases them afterward. The returned function gives them to a test. */
export function useNetworks(subject: Subject, names: NetworkName[]): () => OpenNetworks {
  let networks: OpenNetworks
  beforeAll(async () => {
    networks = await openNetworks(subject, names)
  })
  afterAll(() => networks.release())
  return () => networks
}
