// The memory of a GPU, by a fake nvidia-smi.
import { chmod, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest'
import { watchMemory } from '../../../../infra/bench/gpu/memory.ts'
import { readCard } from '../../../../infra/bench/gpu/short/card.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()

/** Two GPUs. The memory of the second one grows from 1 to 3 MiB. */
const TOOL = `#!/bin/sh
case "$*" in
  --query-gpu=uuid,*) echo 'GPU-a, 143771, 9.0, NVIDIA H200'; echo 'GPU-b, 23034, 8.9, NVIDIA L4' ;;
  --query-gpu=memory.used*--id=GPU-b) echo 1; echo 3; echo 2; exec sleep 60 ;;
  --query-gpu=compute_cap,*--id=GPU-b) echo '8.9, 23034, 580.95.05, NVIDIA L4' ;;
  *) exit 1 ;;
esac
`

beforeEach(async () => {
  const tool = path.join(scratch.directory, 'nvidia-smi')
  await writeFile(tool, TOOL)
  await chmod(tool, 0o755)
  vi.stubEnv('PATH', `${scratch.directory}:${process.env.PATH}`)
})
afterEach(() => vi.unstubAllEnvs())

test.each([
  ['the environment', undefined],
  ['the argument', '1'],
])('the peak is that of the first GPU of CUDA_VISIBLE_DEVICES, from %s', async (_, visible) => {
  vi.stubEnv('CUDA_VISIBLE_DEVICES', visible ? '0' : 'GPU-b,GPU-a')
  const memory = watchMemory(visible)
  onTestFinished(memory.stop)
  await memory.started
  const peaks: number[] = []
  await expect.poll(() => peaks.push(memory.peak() ?? 0) && Math.max(...peaks), { timeout: 10_000 }).toBe(3)
  expect(memory.peak()).toBe(null)
})

test('the report describes the first GPU of CUDA_VISIBLE_DEVICES', async () => {
  vi.stubEnv('CUDA_VISIBLE_DEVICES', '1,0')
  expect(await readCard()).toMatchObject({ gpu: 'NVIDIA L4', capability: '8.9', memoryMib: 23_034 })
})

test('without a visible GPU there is no peak', async () => {
  vi.stubEnv('CUDA_VISIBLE_DEVICES', '')
  const memory = watchMemory()
  await memory.started
  expect(memory.peak()).toBe(null)
})
