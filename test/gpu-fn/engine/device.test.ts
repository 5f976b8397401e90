import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { checkDevices, listGpus, readDeviceMemory, readDeviceName } from '../../../gpu-fn/engine/device.ts'

let scratch: string
beforeEach(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), 'octet-device-'))
  vi.stubEnv('PATH', scratch)
  vi.stubEnv('CUDA_VISIBLE_DEVICES', undefined)
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(scratch, { recursive: true })
})

/** Puts a fake `nvidia-smi` on the path, whose GPUs have these figures, and UUIDs that begin with GPU-0, GPU-1 and so on. */
async function installDriver(...figures: string[]): Promise<void> {
  const tool = path.join(scratch, 'nvidia-smi')
  const query = '--query-gpu=uuid,memory.total,compute_cap,name'
  const lines = figures.map((each, i) => `'GPU-${i}a1b2c3d, ${each}'`)
  await writeFile(tool, `#!/bin/sh\n[ "$1" = ${query} ] && printf '%s\\n' ${lines.join(' ')}\n`)
  await chmod(tool, 0o755)
}

test('the name of a CPU is that of the operating system', async () => {
  expect(readDeviceName('cpu', await listGpus())).toBe(cpus()[0]!.model)
})

test('the name of a GPU is that of its driver, unless the match is ambiguous', async () => {
  expect(readDeviceName('cuda', await listGpus())).toBe('cuda')
  await installDriver('143771, 9.0, NVIDIA H200', '143771, 9.0, NVIDIA H200')
  expect(readDeviceName('cuda', await listGpus())).toBe('NVIDIA H200')
  await installDriver('143771, 9.0, NVIDIA H200', '23034, 8.9, NVIDIA L4')
  expect(readDeviceName('cuda', await listGpus())).toBe('cuda')
})

test('the memory of a process is that of the smallest GPU', async () => {
  expect(readDeviceMemory(await listGpus())).toBe(undefined)
  await installDriver('46068, 8.9, NVIDIA L40S', '81559, 9.0, NVIDIA H100 80GB HBM3')
  expect(await listGpus()).toMatchObject([{ name: 'NVIDIA L40S', capability: 8.9 }, { capability: 9 }])
  expect(readDeviceMemory(await listGpus())).toBe(Math.floor(46068 * 2 ** 20 * 0.97))
})

test('several devices must be GPUs of one model', async () => {
  await installDriver('143771, 9.0, NVIDIA H200', '143771, 9.0, NVIDIA H200', '23034, 8.9, NVIDIA L4')
  const gpus = await listGpus()
  checkDevices(1, [])
  checkDevices(2, gpus)
  expect(() => checkDevices(3, gpus)).toThrow(
    'OCTET_DEVICES is 3, which needs as many GPUs of one model; this machine has NVIDIA H200, NVIDIA H200, NVIDIA L4',
  )
  expect(() => checkDevices(4, gpus.slice(0, 2))).toThrow('this machine has NVIDIA H200, NVIDIA H200')
  expect(() => checkDevices(2, [])).toThrow('this machine has none')
})

const FIGURES = ['143771, 9.0, NVIDIA H200', '23034, 8.9, NVIDIA L4', '46068, 8.9, NVIDIA L40S']

test.each<[visible: string | undefined, indexes: number[]]>([
  [undefined, [0, 1, 2]],
  ['1', [1]],
  ['2, 0', [2, 0]],
  ['GPU-2a1b2c3d', [2]],
  ['GPU-1a,GPU-0', [1, 0]],
  ['0,GPU-2', [0, 2]],
  // An entry that is unknown, or not unique, ends the list.
  ['1,3,0', [1]],
  ['1,GPU-9,0', [1]],
  ['GPU-', []],
  ['-1', []],
  ['', []],
  // The instances are not listed.
  ['MIG-5d1e', [0, 1, 2]],
])('of CUDA_VISIBLE_DEVICES %j, the GPUs are %j', async (visible, indexes) => {
  await installDriver(...FIGURES)
  const uuids = indexes.map((index) => `GPU-${index}a1b2c3d`)
  expect((await listGpus(visible)).map(({ uuid }) => uuid)).toEqual(uuids)
  vi.stubEnv('CUDA_VISIBLE_DEVICES', visible)
  expect((await listGpus()).map(({ uuid }) => uuid)).toEqual(uuids)
})

test('GPUs with unreadable properties still count in GPU indexes', async () => {
  await installDriver('[N/A], 12.1, NVIDIA GB10', ...FIGURES)
  expect(await listGpus('1')).toMatchObject([{ name: 'NVIDIA H200' }])
  expect(await listGpus('0')).toEqual([])
})

test('the name and the memory are those of the GPUs of CUDA_VISIBLE_DEVICES, which errors state', async () => {
  await installDriver(...FIGURES)
  vi.stubEnv('CUDA_VISIBLE_DEVICES', '1')
  expect(readDeviceName('cuda', await listGpus())).toBe('NVIDIA L4')
  expect(readDeviceMemory(await listGpus())).toBe(Math.floor(23034 * 2 ** 20 * 0.97))
  expect(() => checkDevices(2, [])).toThrow('this machine has none within CUDA_VISIBLE_DEVICES=1')
})

test('a driver without a GPU counts as no GPU', async () => {
  const tool = path.join(scratch, 'nvidia-smi')
  await writeFile(
    tool,
    '#!/bin/sh\necho "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver"\n',
  )
  await chmod(tool, 0o755)
  expect(await listGpus()).toEqual([])
})
