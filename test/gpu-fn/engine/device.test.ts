import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { checkDevices, deviceMemory, deviceName, listGpus } from '../../../gpu-fn/engine/device.ts'

let scratch: string
beforeEach(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), 'octet-device-'))
  vi.stubEnv('PATH', scratch)
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(scratch, { recursive: true })
})

/** Puts a fake `nvidia-smi` on the path, which prints these lines. */
async function install(...lines: string[]): Promise<void> {
  const tool = path.join(scratch, 'nvidia-smi')
  const query = '--query-gpu=memory.total,compute_cap,name'
  await writeFile(
    tool,
    `#!/bin/sh\n[ "$1" = ${query} ] && printf '%s\\n' ${lines.map((line) => `'${line}'`).join(' ')}\n`,
  )
  await chmod(tool, 0o755)
}

test('a CPU has the name that the system gives it', async () => {
  expect(deviceName('cpu', await listGpus())).toBe(cpus()[0]!.model)
})

test('a GPU has the name that its driver gives it, unless that could be another one', async () => {
  expect(deviceName('cuda', await listGpus())).toBe('cuda')
  await install('143771, 9.0, NVIDIA H200', '143771, 9.0, NVIDIA H200')
  expect(deviceName('cuda', await listGpus())).toBe('NVIDIA H200')
  await install('143771, 9.0, NVIDIA H200', '23034, 8.9, NVIDIA L4')
  expect(deviceName('cuda', await listGpus())).toBe('cuda')
})

test('the memory of a process is that of the smallest GPU', async () => {
  expect(deviceMemory(await listGpus())).toBe(undefined)
  await install('46068, 8.9, NVIDIA L40S', '81559, 9.0, NVIDIA H100 80GB HBM3')
  expect(await listGpus()).toMatchObject([{ name: 'NVIDIA L40S', capability: 8.9 }, { capability: 9 }])
  expect(deviceMemory(await listGpus())).toBe(Math.floor(46068 * 2 ** 20 * 0.97))
})

test('several devices must be GPUs of one model', async () => {
  await install('143771, 9.0, NVIDIA H200', '143771, 9.0, NVIDIA H200', '23034, 8.9, NVIDIA L4')
  const gpus = await listGpus()
  checkDevices(1, [])
  checkDevices(2, gpus)
  expect(() => checkDevices(3, gpus)).toThrow(
    'OCTET_DEVICES is 3, which needs as many GPUs of one model; this machine has NVIDIA H200, NVIDIA H200, NVIDIA L4',
  )
  expect(() => checkDevices(4, gpus.slice(0, 2))).toThrow('this machine has NVIDIA H200, NVIDIA H200')
  expect(() => checkDevices(2, [])).toThrow('this machine has none')
})

test('a driver without a GPU is none', async () => {
  await install('NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver')
  expect(await listGpus()).toEqual([])
})
