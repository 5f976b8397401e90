// Package sizes of the published models, computed from their headers.
import path from 'node:path'
import { expect, test } from 'vitest'
import type { BuildOptions } from '../../../gpu-fn/compile/graph/model.ts'
import { lowerings } from '../../../gpu-fn/compile/lower/lowerings.ts'
import { layOut, layoutBytes } from '../../../gpu-fn/compile/write/weights.ts'
import type { Tier } from '../../../gpu-fn/contract.ts'
import { buildModel } from '../../../gpu-fn/models/sd35/build.ts'
import { openCheckpoint } from '../../../gpu-fn/models/sd35/sd35.ts'
import type { Published } from '../../../infra/checkpoints/published.ts'
import { writeSparseCheckpoint } from '../../support/checkpoints/real-headers.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()

/** Weight sizes in gigabytes by network, and their sum; the four graphs of T5 count as one network. */
async function sizesOf(
  name: Published,
  tier: Tier,
  options: Pick<BuildOptions, 'adalnBits' | 't5Bits'>,
): Promise<Record<string, number>> {
  const paths = await writeSparseCheckpoint(path.join(scratch.directory, name), name, 'single-file')
  const checkpoint = await openCheckpoint(paths)
  const { graphs } = buildModel(checkpoint, paths, { tier, ...options }, lowerings('cuda-fp8'))
  const sizes: Record<string, number> = { all: 0 }
  for (const [graph, { weights }] of graphs) {
    const network = graph.replace(/^t5_\d$/, 't5')
    const bytes = layoutBytes(layOut(weights))
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
  ['medium', 'fp8', { adalnBits: 8 }, 8.98, { t5: 4.9, conditioning: 0.81, transformer: 1.47 }],
  ['medium', 'fp8', { adalnBits: 8, t5Bits: 4 }, 6.95, { t5: 2.87, conditioning: 0.81, transformer: 1.47 }],
] as const)('%s in tier %s with %j has %d GB', async (name, tier, options, all, networks) => {
  expect(await sizesOf(name, tier, options)).toEqual({ all, ...ENCODERS, ...AUTOENCODER, ...networks })
})
