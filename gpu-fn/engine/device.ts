// The name of the hardware that runs a package, for a job's `started` event.
import { execFile } from 'node:child_process'
import { cpus } from 'node:os'
import { promisify } from 'node:util'
import type { Manifest } from '../manifest.ts'

const QUERY = ['--query-gpu=name', '--format=csv,noheader']
const QUERY_MS = 10_000

/** The model of the CPU or GPU; the target's name if it is unknown or if the GPUs differ. */
export async function deviceName(target: Manifest['target']): Promise<string> {
  const names = target === 'cpu' ? cpus().map(({ model }) => model.trim()) : await gpuNames()
  const [name, ...others] = new Set(names)
  return name && others.length === 0 ? name : target
}

async function gpuNames(): Promise<string[]> {
  try {
    const { stdout } = await promisify(execFile)('nvidia-smi', QUERY, { timeout: QUERY_MS })
    return stdout.trim().split('\n')
  } catch {
    return []
  }
}
