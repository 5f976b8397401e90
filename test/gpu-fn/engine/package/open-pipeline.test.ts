import { expect, test } from 'vitest'
import { chooseControlGraphs, chooseGraphs, footprintOf } from '../../../../gpu-fn/engine/package/graphs.ts'
import type { ControlnetManifest, Manifest } from '../../../../gpu-fn/manifest.ts'

const GIB = 2 ** 30

test.each<[Manifest['target'], Manifest['tier'], fileBytes: number, fold: boolean, bytes: number]>([
  ['cpu', 'fp8', GIB, true, 4 * GIB],
  ['cpu', 'fp8-lite', GIB, true, 4 * GIB],
  ['cpu', 'fp8-int4', GIB, true, 8 * GIB],
  ['cpu', 'fp8-int4', GIB + 2, false, 2 * GIB + 4],
  ['cpu', 'fp8', GIB + 2, false, 2 * GIB + 4],
  ['cpu', 'fp16', GIB, true, 2 * GIB],
  ['cpu', 'fp16', GIB + 2, false, 2 * GIB + 4],
  ['cpu', 'fp32', GIB, true, GIB],
  ['cuda', 'fp8', GIB, false, GIB],
  ['cuda-fp8', 'fp8', GIB, false, GIB],
])(
  'a package for %s in %s with files of %d bytes: folded %s, %d bytes in memory',
  (target, tier, size, fold, bytes) => {
    const half = { bytes: size / 2, sha256: '' }
    const manifest = { target, tier, files: { a: half, b: half } } as unknown as Manifest
    expect(footprintOf({ manifest })).toMatchObject({ fold, bytes })
  },
)

const createGraph = (file: string) => ({ file, inputs: [], outputs: [] })
const NETWORKS = {
  t5: createGraph('t5'),
  transformer: createGraph('transformer'),
  vae_decoder: createGraph('vae_decoder'),
}
const OTHERS = { transformer: createGraph('other transformer'), vae_decoder: createGraph('other vae_decoder') }
const createManifest = (target: Manifest['target']) =>
  ({
    ...{ model: 'large', tier: 'fp8', target, transformer_batch: target === 'cuda' ? 1 : null, networks: NETWORKS },
    ...(target === 'cuda-fp8' && { without_kernels: OTHERS }),
  }) as unknown as Manifest

test('the graphs with kernels are opened if the GPU supports them and they are built', () => {
  const findFakeKernels = () => ({ library: '/kernels.so', reason: null })
  expect(chooseGraphs(createManifest('cuda-fp8'), findFakeKernels)).toEqual({
    ...{ networks: NETWORKS, batched: true, kernels: '/kernels.so', note: null },
  })
})

test('otherwise the other graphs are opened, one sample at a time, with a note of the reason', () => {
  const findFakeKernels = () => ({ library: null, reason: 'the GPU has no FP8 tensor cores' })
  expect(chooseGraphs(createManifest('cuda-fp8'), findFakeKernels)).toEqual({
    ...{ networks: { t5: NETWORKS.t5, ...OTHERS }, batched: false },
    note: expect.stringMatching(/large:fp8 .*16-bit products: the GPU has no FP8 tensor cores/),
  })
})

test('a ControlNet has another graph for GPUs without support for the kernels', () => {
  const networks = { control_conditioning: createGraph('conditioning'), control: createGraph('control') }
  const about = {
    networks,
    without_kernels: { control: createGraph('other control') },
  } as unknown as ControlnetManifest
  expect(chooseControlGraphs(about, () => ({ library: '/kernels.so', reason: null }))).toEqual(networks)
  const chosen = chooseControlGraphs(about, () => ({ library: null, reason: 'no GPU' }))
  expect(chosen).toEqual({ ...networks, control: createGraph('other control') })
})

test.each(['cpu', 'cuda'] as const)('a package for %s has one graph per network and requires no kernels', (target) => {
  const findFakeKernels = () => {
    throw new Error('not to be asked')
  }
  const chosen = chooseGraphs(createManifest(target), findFakeKernels)
  expect(chosen).toEqual({ networks: NETWORKS, batched: target === 'cpu', note: null })
})
