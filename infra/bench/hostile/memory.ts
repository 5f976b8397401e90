// Samples the resident memory of the processes under load from Linux's /proc.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import os from 'node:os'

/** Bytes by process name. */
export type Sample = Record<string, number>
export type Growth = { name: string; first: number; last: number; peak: number; flat: boolean }

const PAGE_BYTES = 4096
/** Allowed growth from the first to the last third, since caches and allocator arenas are still filling. */
const GROWTH = { ratio: 1.2, bytes: 32 * 2 ** 20 }

function read(file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return ''
  }
}

/** Ids of all processes in a process group. */
function groupOf(leader: number): number[] {
  const ids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  // Fields after the parenthesized command name: state, parent, group.
  const group = (id: string) => Number(/\) \S \d+ (\d+) /.exec(read(`/proc/${id}/stat`))?.[1])
  return ids.filter((id) => group(id) === leader).map(Number)
}

const readResidentBytes = (id: number) => Number(read(`/proc/${id}/statm`).split(' ')[1] ?? 0) * PAGE_BYTES

const sumOf = (ids: readonly number[]) => ids.reduce((total, id) => total + readResidentBytes(id), 0)

/** Resident memory of all processes of the group; null on systems other than Linux. */
export const groupBytes = (leader: number): number | null => (os.platform() === 'linux' ? sumOf(groupOf(leader)) : null)

/** Whether the process has a file of the directory open. */
function hasOpen(id: number, directory: string): boolean {
  try {
    const files = readdirSync(`/proc/${id}/fd`)
    return files.some((file) => readlinkSync(`/proc/${id}/fd/${file}`).startsWith(directory))
  } catch {
    return false
  }
}

/** `worker` and `gpu` are process group leaders. In the worker's group, workerd is the process with its databases open. */
export type Processes = { worker: number; gpu: number; persist: string }

/** Resident memory of the worker's workerd, which includes the storage simulators, and of the GPU function. */
export function sampleMemory({ worker, gpu, persist }: Processes): Sample {
  if (os.platform() !== 'linux') return {}
  return { workerd: sumOf(groupOf(worker).filter((id) => hasOpen(id, persist))), 'GPU function': sumOf(groupOf(gpu)) }
}

const computeMean = (values: readonly number[]) => values.reduce((total, value) => total + value, 0) / values.length

/** Compares the mean of the first third of the samples with that of the last third. Memory is flat if the growth is small. */
export function growthOf(samples: readonly Sample[]): Growth[] {
  const third = Math.floor(samples.length / 3)
  return Object.keys(samples[0] ?? {}).map((name) => {
    const values = samples.map((sample) => sample[name]!)
    const [first, last] = [computeMean(values.slice(0, third || 1)), computeMean(values.slice(-(third || 1)))]
    const flat = last <= Math.max(first * GROWTH.ratio, first + GROWTH.bytes)
    return { name, first, last, peak: Math.max(...values), flat }
  })
}
