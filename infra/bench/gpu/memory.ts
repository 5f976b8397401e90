// What nvidia-smi says of a GPU's memory while other programs run.
import { spawn, spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline'

const EVERY_MS = 20
const QUERY = ['--query-gpu=memory.used', '--format=csv,noheader,nounits', '--id=0', `-lms=${EVERY_MS}`]

export type MemoryWatch = {
  /** The most since the last call in MiB, contexts of all processes included; null where there is no GPU. */
  peak: () => number | null
  stop: () => void
}

/** Starts to look at the first GPU's memory fifty times a second. */
export function watchMemory(): MemoryWatch {
  if (!gpuName()) return { peak: () => null, stop: () => {} }
  const child = spawn('nvidia-smi', QUERY, { stdio: ['ignore', 'pipe', 'ignore'] })
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

/** The first GPU's name; null where there is none. */
export function gpuName(): string | null {
  const { status, stdout } = spawnSync('nvidia-smi', ['--query-gpu=name', '--format=csv,noheader', '--id=0'], {
    encoding: 'utf8',
  })
  return status === 0 ? stdout.trim() : null
}
