// Device memory in use, sampled with nvidia-smi while other programs run.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { listGpus } from '../../../gpu-fn/engine/device.ts'
import { endWithThis } from '../../command/child-process.ts'

const EVERY_MS = 20
const QUERY = ['--query-gpu=memory.used', '--format=csv,noheader,nounits', `-lms=${EVERY_MS}`]

type MemoryWatch = {
  /** Resolves at the first sample, or without one if there is no GPU. */
  started: Promise<void>
  /** The peak since the last call in MiB, including the contexts of all processes; null if there is no GPU or no sample since then. */
  peak: () => number | null
  stop: () => void
}

/** Samples the memory of the first GPU of a process with this CUDA_VISIBLE_DEVICES, by default of this process, fifty times per second. */
export function watchMemory(visible?: string): MemoryWatch {
  let peak: number | null = null
  let child: ChildProcess | undefined
  let isStopped = false
  const start = async () => {
    const [gpu] = await listGpus(visible)
    if (!gpu || isStopped) return
    const sampler = endWithThis(
      spawn('nvidia-smi', [...QUERY, `--id=${gpu.uuid}`], { stdio: ['ignore', 'pipe', 'ignore'] }),
    )
    child = sampler
    const lines = createInterface(sampler.stdout).on('line', (text) => {
      peak = Math.max(peak ?? 0, Number(text) || 0)
    })
    await Promise.race([once(lines, 'line'), once(lines, 'close')])
  }
  return {
    started: start(),
    peak: () => {
      const max = peak
      peak = null
      return max
    },
    stop: () => {
      isStopped = true
      child?.kill()
    },
  }
}
