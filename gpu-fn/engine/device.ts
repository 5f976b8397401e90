// The hardware of this machine: the name for a job's `started` event, and the memory for open packages.
import { execFile } from 'node:child_process'
import { cpus, totalmem } from 'node:os'
import { promisify } from 'node:util'
import type { Target } from '../manifest.ts'

/** `capability` is the CUDA compute capability, such as 8.9. */
export type Gpu = { name: string; bytes: number; capability: number }

const QUERY = ['--query-gpu=memory.total,compute_cap,name', '--format=csv,noheader,nounits']
const QUERY_MS = 10_000
const MIB = 2 ** 20
/** A GPU's memory besides that of its driver, as a share. */
const GPU_SHARE = 0.97
/** The share of host memory for packages that run on the CPU; the rest is for the page cache and other processes. */
const HOST_SHARE = 0.6

/** The NVIDIA GPUs, by `nvidia-smi`; empty if there are none. */
export async function listGpus(): Promise<Gpu[]> {
  const output = await promisify(execFile)('nvidia-smi', QUERY, { timeout: QUERY_MS }).catch(() => ({ stdout: '' }))
  return output.stdout.split('\n').flatMap((line) => {
    const [, mebibytes, capability, name] = /^ *(\d+), *(\d+\.\d+), *(.+?) *$/.exec(line) ?? []
    return name === undefined ? [] : [{ name, bytes: Number(mebibytes) * MIB, capability: Number(capability) }]
  })
}

/** The model of the CPU or GPU; the target's name if it is unknown or if the GPUs differ. */
export async function deviceName(target: Target): Promise<string> {
  const devices: { name: string }[] = target === 'cpu' ? cpus().map(({ model }) => ({ name: model })) : await listGpus()
  const [name, ...others] = new Set(devices.map(({ name }) => name.trim()))
  return name && others.length === 0 ? name : target
}

/** Bytes that open packages of these targets may take: of the smallest GPU if one of them runs on GPUs, otherwise of the host. */
export async function memoryFor(targets: readonly Target[]): Promise<number> {
  const gpus = targets.some((target) => target !== 'cpu') ? await listGpus() : []
  if (gpus.length > 0) return Math.floor(Math.min(...gpus.map(({ bytes }) => bytes)) * GPU_SHARE)
  const limit = process.constrainedMemory()
  return Math.floor((limit > 0 ? Math.min(limit, totalmem()) : totalmem()) * HOST_SHARE)
}
