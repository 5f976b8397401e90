import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { findKernels } from '../../../gpu-fn/runtime/fp8-kernels.ts'

test('the error for a missing library contains the command that builds it', () => {
  const missing = expect.stringMatching(/liboctet-kernels\.so is missing; .*kernels\/build/)
  expect(findKernels('/nowhere/liboctet-kernels.so')).toEqual({ library: null, reason: missing })
})

test('a file other than a library counts as missing', async () => {
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-kernels-'))
  try {
    const file = path.join(scratch, 'liboctet-kernels.so')
    await writeFile(file, 'not a library')
    expect(findKernels(file)).toEqual({ library: null, reason: expect.stringContaining('cannot be loaded') })
  } finally {
    await rm(scratch, { recursive: true })
  }
})
