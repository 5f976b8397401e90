import { expect, test } from 'vitest'
import type { Manifest } from '../../gpu-fn/compile/manifest.ts'
import { chooseStepGraph, footprintOf } from '../../gpu-fn/pipeline.ts'

const GIB = 2 ** 30

test.each<[Manifest['target'], Manifest['tier'], fileBytes: number, fold: boolean, bytes: number]>([
  ['cpu', 'fp8', GIB, true, 4 * GIB],
  ['cpu', 'fp8-lite', GIB, true, 4 * GIB],
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

const stepGraph = (file: string) => ({ file, inputs: [], outputs: [] })
const manifestFor = (target: Manifest['target']) =>
  ({
    ...{ model: 'large', tier: 'fp8', target, transformer_batch: target === 'cuda' ? 1 : null },
    networks: { transformer: stepGraph('transformer.onnx') },
    ...(target === 'cuda-fp8' && { weight_only: stepGraph('weight-only.onnx') }),
  }) as unknown as Manifest

test('the step graph is the one that multiplies in FP8 where GPU and kernels are there', () => {
  const kernels = () => ({ library: '/kernels.so' })
  expect(chooseStepGraph(manifestFor('cuda-fp8'), kernels)).toEqual({
    ...{ file: 'transformer.onnx', batched: true, kernels: '/kernels.so', note: null },
  })
})

test('without them it is the weight-only one, a sample at a time, and says why', () => {
  const kernels = () => ({ missing: 'the GPU has no FP8 tensor cores' })
  expect(chooseStepGraph(manifestFor('cuda-fp8'), kernels)).toEqual({
    ...{ file: 'weight-only.onnx', batched: false },
    note: expect.stringMatching(/large:fp8 .*16-bit products: the GPU has no FP8 tensor cores/),
  })
})

test.each(['cpu', 'cuda'] as const)('a package for %s has one step graph and asks for no kernels', (target) => {
  const kernels = () => {
    throw new Error('not to be asked')
  }
  const chosen = chooseStepGraph(manifestFor(target), kernels)
  expect(chosen).toEqual({ file: 'transformer.onnx', batched: target === 'cpu', note: null })
})
