import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { deviceName } from '../../../gpu-fn/engine/device.ts'

let scratch: string
beforeEach(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), 'octet-device-'))
  vi.stubEnv('PATH', scratch)
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(scratch, { recursive: true })
})

/** Puts a driver's tool on the path that lists these GPUs. */
async function listGpus(...names: string[]): Promise<void> {
  const tool = path.join(scratch, 'nvidia-smi')
  await writeFile(
    tool,
    `#!/bin/sh\n[ "$1" = --query-gpu=name ] && printf '%s\\n' ${names.map((name) => `'${name}'`).join(' ')}\n`,
  )
  await chmod(tool, 0o755)
}

test('a CPU has the name that the system gives it', async () => {
  expect(await deviceName('cpu')).toBe(cpus()[0]!.model)
})

test('a GPU has the name that its driver gives it, unless that could be another one', async () => {
  expect(await deviceName('cuda')).toBe('cuda')
  await listGpus('NVIDIA H200', 'NVIDIA H200')
  expect(await deviceName('cuda')).toBe('NVIDIA H200')
  await listGpus('NVIDIA H200', 'NVIDIA L4')
  expect(await deviceName('cuda')).toBe('cuda')
})
