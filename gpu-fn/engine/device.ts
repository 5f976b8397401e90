// The hardware of this machine: the name for a job's `started` event, and the GPU's memory.
import { execFile } from 'node:child_process'
import { cpus } from 'node:os'
import { promisify } from 'node:util'
import type { Target } from '../manifest.ts'

/** `uuid` is a value for `nvidia-smi --id`, `capability` the CUDA compute capability, such as 8.9. */
export type Gpu = { uuid: string; name: string; bytes: number; capability: number }

const QUERY = ['--query-gpu=uuid,memory.total,compute_cap,name', '--format=csv,noheader,nounits']
const QUERY_MS = 10_000
const MIB = 2 ** 20
/** The share of a GPU's memory that its driver does not occupy. */
const SHARE = 0.97

/**
 * The NVIDIA GPUs of a process with this CUDA_VISIBLE_DEVICES, by default that of this process, in the order of the variable. Empty if there
 * are none. Indexes count by bus, as CUDA does for GPUs of one model, and for others with CUDA_DEVICE_ORDER=PCI_BUS_ID.
 */
export async function listGpus(visible = process.env.CUDA_VISIBLE_DEVICES): Promise<Gpu[]> {
  // nvidia-smi ignores the variable.
  const output = await promisify(execFile)('nvidia-smi', QUERY, { timeout: QUERY_MS }).catch(() => ({ stdout: '' }))
  const all = output.stdout
    .trim()
    .split('\n')
    .map((line) => {
      const [uuid = '', mebibytes, capability, ...name] = line.split(',').map((field) => field.trim())
      return { uuid, name: name.join(', '), bytes: Number(mebibytes) * MIB, capability: Number(capability) }
    })
  return selectVisible(all, visible).filter(({ name, bytes, capability }) => name !== '' && bytes > 0 && capability > 0)
}

/**
 * CUDA Programming Guide 13, "CUDA Environment Variables": entries are indexes or unique beginnings of UUIDs, and those from the first invalid
 * one on are ignored. nvidia-smi does not list MIG instances beside the GPUs, so a list with one selects nothing.
 */
function selectVisible(all: readonly Gpu[], visible: string | undefined): readonly Gpu[] {
  const entries = visible?.split(',').map((entry) => entry.trim())
  if (!entries || entries.some((entry) => entry.startsWith('MIG-'))) return all
  const selected = entries.map((entry) => {
    if (/^\d+$/.test(entry)) return all[Number(entry)]
    const matches = entry.startsWith('GPU-') ? all.filter(({ uuid }) => uuid.startsWith(entry)) : []
    return matches.length === 1 ? matches[0] : undefined
  })
  const invalid = selected.indexOf(undefined)
  return selected.slice(0, invalid < 0 ? undefined : invalid) as Gpu[]
}

/** The restriction of `listGpus` by the environment, for messages; empty if there is none. */
export function describeVisibleDevices(): string {
  const visible = process.env.CUDA_VISIBLE_DEVICES
  return visible === undefined ? '' : ` within CUDA_VISIBLE_DEVICES=${visible}`
}

/** Throws an Error unless the first `count` GPUs are of one model: all use the memory plan and the kernels of the first one. */
export function checkDevices(count: number, gpus: readonly Gpu[]): void {
  if (count === 1) return
  const used = gpus.slice(0, count).map(({ name }) => name)
  if (used.length < count || new Set(used).size > 1)
    throw new Error(
      `OCTET_DEVICES is ${count}, which needs as many GPUs of one model; this machine has ${used.join(', ') || 'none'}${describeVisibleDevices()}`,
    )
}

/** The model of the CPU or of these GPUs; the target's name if it is unknown or if the GPUs differ. */
export function readDeviceName(target: Target, gpus: readonly Gpu[]): string {
  const devices = target === 'cpu' ? cpus().map(({ model }) => ({ name: model })) : gpus
  const [name, ...others] = new Set(devices.map(({ name }) => name.trim()))
  return name && others.length === 0 ? name : target
}

/** Bytes that this process may use on each of these GPUs; undefined without a GPU. */
export function readDeviceMemory(gpus: readonly Gpu[]): number | undefined {
  return gpus.length === 0 ? undefined : Math.floor(Math.min(...gpus.map(({ bytes }) => bytes)) * SHARE)
}
