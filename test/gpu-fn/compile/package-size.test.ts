// Package sizes of the published models, computed from their headers.
import path from 'node:path'
import { expect, test } from 'vitest'
import type { Graph } from '../../../gpu-fn/compile/graph/graph.ts'
import type { BuildOptions, Model } from '../../../gpu-fn/compile/graph/model.ts'
import { chooseLowerings } from '../../../gpu-fn/compile/lower/lowerings.ts'
import { layOut, sumLayoutBytes } from '../../../gpu-fn/compile/write/weights.ts'
import type { Tier } from '../../../gpu-fn/contract.ts'
import { planMemory } from '../../../gpu-fn/engine/package/memory-plan.ts'
import { buildModel } from '../../../gpu-fn/models/sd35/build.ts'
import { openCheckpoint } from '../../../gpu-fn/models/sd35/sd35.ts'
import type { PublishedModel } from '../../../infra/checkpoints/published.ts'
import { writeSparseCheckpoint } from '../../support/checkpoints/real-headers.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()

type Options = Pick<BuildOptions, 'adalnBits' | 't5Bits'>

async function build(name: PublishedModel, tier: Tier, options: Options): Promise<Model> {
  const paths = await writeSparseCheckpoint(path.join(scratch.directory, name), name, 'single-file')
  const checkpoint = await openCheckpoint(paths)
  return buildModel(checkpoint, paths, { tier, ...options }, chooseLowerings('cuda-fp8'))
}

/** Size of the weights in GB per network, with all T5 graphs combined, and in total. */
async function sizesOf(name: PublishedModel, tier: Tier, options: Options): Promise<Record<string, number>> {
  const { graphs } = await build(name, tier, options)
  const sizes: Record<string, number> = { all: 0 }
  for (const [graph, { weights }] of graphs) {
    const network = graph.replace(/^t5_\d$/, 't5')
    const bytes = sumLayoutBytes(layOut(weights))
    sizes[network] = (sizes[network] ?? 0) + bytes
    sizes.all! += bytes
  }
  return Object.fromEntries(Object.entries(sizes).map(([network, bytes]) => [network, Math.round(bytes / 1e7) / 100]))
}

const ENCODERS = { clip_l: 0.25, clip_g: 1.39 }
const AUTOENCODER = { vae_decoder: 0.1, vae_encoder: 0.07 }

test.each([
  ['large', 'fp8', {}, 17.49, { t5: 4.9, conditioning: 5.43, transformer: 5.35 }],
  ['large', 'fp8', { adalnBits: 8 }, 14.84, { t5: 4.9, conditioning: 2.79, transformer: 5.35 }],
  ['large', 'fp8', { adalnBits: 8, t5Bits: 4 }, 12.81, { t5: 2.87, conditioning: 2.79, transformer: 5.35 }],
  ['large', 'fp8-lite', { adalnBits: 8 }, 9.95, { conditioning: 2.79, transformer: 5.35 }],
  ['large', 'fp8-int4', {}, 11.35, { t5: 2.87, conditioning: 2.79, transformer: 3.89 }],
  ['medium', 'fp8', { adalnBits: 8 }, 8.98, { t5: 4.9, conditioning: 0.81, transformer: 1.47 }],
  ['medium', 'fp8', { adalnBits: 8, t5Bits: 4 }, 6.95, { t5: 2.87, conditioning: 0.81, transformer: 1.47 }],
  ['medium', 'fp8-int4', {}, 6.62, { t5: 2.87, conditioning: 0.81, transformer: 1.13 }],
] as const)('%s in tier %s with %j takes %d GB', async (name, tier, options, all, networks) => {
  expect(await sizesOf(name, tier, options)).toEqual({ all, ...ENCODERS, ...AUTOENCODER, ...networks })
})

test('the step weights of Large in tier fp8-int4 take at most 3.9 GB', async () => {
  const { graphs } = await build('large', 'fp8-int4', {})
  expect(sumLayoutBytes(layOut(graphs.get('transformer')!.weights))).toBeLessThanOrEqual(3.9e9)
})

test.each([
  ['the kernels', { target: 'cuda-fp8', samples: 2, widening: 1 }],
  ['16-bit products', { target: 'cuda', samples: 1, widening: 1 }],
] as const)('Large in tier fp8-int4 with %s fits in 6 GiB at 1024 x 768', async (_, how) => {
  const { graphs, manifest } = await build('large', 'fp8-int4', {})
  const about = {
    ...manifest,
    networks: Object.fromEntries(
      [...graphs].map(([name, graph]) => {
        const listPorts = (of: Graph['inputs']) => of.map((port) => ({ ...port, shape: [...port.shape] }))
        const weights = `${name}.weights`
        return [name, { file: name, weights, inputs: listPorts(graph.inputs), outputs: listPorts(graph.outputs) }]
      }),
    ),
    files: Object.fromEntries(
      [...graphs].map(([name, { weights }]) => [
        `${name}.weights`,
        { bytes: sumLayoutBytes(layOut(weights)), sha256: '' },
      ]),
    ),
  }
  const plan = planMemory(about, { width: 1024, height: 768 }, 6 * 2 ** 30, how)
  expect(plan.peak).toBeLessThanOrEqual(6 * 2 ** 30)
})
