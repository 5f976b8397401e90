// The hardware of this machine: the name for a job's `started` event, and the GPU's memory.
import { execFile } from 'node:child_process'
import { cpus } from 'node:os'
import { promisify } from 'node:util'
import type { Target } from '../manifest.ts'

/** `capability` is the CUDA compute capability, such as 8.9. */
export type Gpu = { name: string; bytes: number; capability: number }

const QUERY = ['--query-gpu=memory.total,compute_cap,name', '--format=csv,noheader,nounits']
const QUERY_MS = 10_000
const MIB = 2 ** 20
/** The share of a GPU's memory that its driver does not occupy. */
const SHARE = 0.97

/** The NVIDIA GPUs, by `nvidia-smi`; empty if there are none. */
export async function listGpus(): Promise<Gpu[]> {
  const output = await promisify(execFile)('nvidia-smi', QUERY, { timeout: QUERY_MS }).catch(() => ({ stdout: '' }))
  return output.stdout.split('\n').flatMap((line) => {
    const [mebibytes, capability, ...name] = line.split(',').map((field) => field.trim())
    const gpu = { name: name.join(', '), bytes: Number(mebibytes) * MIB, capability: Number(capability) }
    return gpu.name !== '' && gpu.bytes > 0 && gpu.capability > 0 ? [gpu] : []
  })
}

/** Throws an Error unless the first `count` GPUs are of one model: all use the memory plan and the kernels of the first one. */
export function checkDevices(count: number, gpus: readonly Gpu[]): void {
  if (count === 1) return
  const used = gpus.slice(0, count).map(({ name }) => name)
  if (used.length < count || new Set(used).size > 1)
    throw new Error(
      `OCTET_DEVICES is ${count}, which needs as many GPUs of one model; this machine has ${used.join(', ') || 'none'}`,
    )
}

/** The model of the CPU or of the GPUs of this machine; the target's name if it is unknown or if the GPUs differ. */
export function deviceName(target: Target, gpus: readonly Gpu[]): string {
  const devices = target === 'cpu' ? cpus().map(({ model }) => ({ name: model })) : gpus
  const [name, ...others] = new Set(devices.map(({ name }) => name.trim()))
  return name && others.length === 0 ? name : target
}

/** Bytes that this process may use on a GPU, the smallest one if there are several; undefined if there is none. */
export function deviceMemory(gpus: readonly Gpu[]): number | undefined {
  return gpus.length === 0 ? undefined : Math.floor(Math.min(...gpus.map(({ bytes }) => bytes)) * SHARE)
}
