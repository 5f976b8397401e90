// Device memory in use, sampled with nvidia-smi while other programs run.
import { spawn, spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline'
import { endWithThis } from '../../command/child-process.ts'

const EVERY_MS = 20
const QUERY = ['--query-gpu=memory.used', '--format=csv,noheader,nounits', `-lms=${EVERY_MS}`]

type MemoryWatch = {
  /** The peak since the last call in MiB, including the contexts of all processes; null without a GPU. */
  peak: () => number | null
  stop: () => void
}

/** Samples the memory of a GPU, the first one by default, fifty times per second. */
export function watchMemory(gpu = '0'): MemoryWatch {
  if (!gpuName()) return { peak: () => null, stop: () => {} }
  const child = endWithThis(spawn('nvidia-smi', [...QUERY, `--id=${gpu}`], { stdio: ['ignore', 'pipe', 'ignore'] }))
  let peak = 0
  createInterface(child.stdout).on('line', (text) => {
    peak = Math.max(peak, Number(text) || 0)
  })
  return {
    peak: () => {
      const most = peak
      peak = 0
      return most
    },
    stop: () => void child.kill(),
  }
}

/** Name of the first GPU; null without one. */
export function gpuName(): string | null {
  const { status, stdout } = spawnSync('nvidia-smi', ['--query-gpu=name', '--format=csv,noheader', '--id=0'], {
    encoding: 'utf8',
  })
  return status === 0 ? stdout.trim() : null
}
