import { copyFile, mkdtemp, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { architecturesOf, assertLibraries, chooseTarget, findMissingLibraries } from '../../../infra/local/hardware.ts'

const createGpu = (name: string, capability: number) => ({ uuid: `GPU-${name}`, name, capability, bytes: 80e9 })

test.each([
  [[createGpu('NVIDIA H100', 9)], 'cuda-fp8'],
  [[createGpu('NVIDIA L4', 8.9), createGpu('NVIDIA H100', 9)], 'cuda-fp8'],
  [[createGpu('NVIDIA A100', 8), createGpu('NVIDIA H100', 9)], 'cuda'],
  [[createGpu('NVIDIA T4', 7.5)], 'cpu'],
  [[], 'cpu'],
])('%j result in the target %s', (gpus, target) => {
  expect(chooseTarget(gpus).target).toBe(target)
})

test('a target has a reason', () => {
  expect(chooseTarget([createGpu('NVIDIA T4', 7.5)]).reason).toBe(
    'NVIDIA T4 has compute capability 7.5; the CUDA targets need 8.0',
  )
})

test.each([
  [[8.9], ['89']],
  [[9], ['90']],
  [
    [9, 8.9, 9],
    ['90', '89'],
  ],
  [[10.3], ['100']],
  [[12.1], ['120']],
  [[8.7], []],
  [[11], []],
])('kernels for compute capabilities %j are built for %j', (capabilities, expected) => {
  expect(architecturesOf(capabilities.map((each) => createGpu('GPU', each)))).toEqual(expected)
})

test('a library that the loader cannot find is reported before the compilation', async () => {
  const runtime = createRequire(import.meta.url).resolve('onnxruntime-node')
  const binding = path.join(
    path.dirname(runtime),
    '../bin/napi-v6',
    process.platform,
    process.arch,
    'onnxruntime_binding.node',
  )
  expect(findMissingLibraries(binding)).toEqual([])
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-ldd-'))
  const copy = path.join(scratch, 'alone.node')
  await copyFile(binding, copy)
  expect(findMissingLibraries(copy)).toEqual(['libonnxruntime.so.1'])
  await rm(scratch, { recursive: true })
  expect(() => assertLibraries(['libcublasLt.so.13', 'libcudart.so.13'])).toThrow(
    'needs libcublasLt.so.13, libcudart.so.13',
  )
})
