// The weights of a graph in memory of our own, over which its session is opened. They leave the device and come back, by direct reads from
// the page cache, while the session stays: to open it anew takes longer than that, and onnxruntime copies at a tenth of the speed.
import fs from 'node:fs/promises'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import { type ExternalTensor, readExternalTensors } from '../compile/write/onnx.ts'
import { isInside } from '../weights/packages.ts'
import type { DeviceMemory, Mapping } from './device-memory.ts'
import { loadLibrary } from './ffi.ts'
import type { OrtApi, Pointer } from './ort-api.ts'

/** mmap(2): PROT_READ, MAP_SHARED, MAP_POPULATE of Linux */
const READ = 1
const SHARED_AND_READ = 1 | 0x8000
const MAP_FAILED = 2n ** 64n - 1n

/**
 * The least time between a range's second mapping and a run. On an H200 (driver 580.159) runs that followed within 4 ms gave partly wrong
 * results, as if the GPU still went to the memory that had been there before; none did after 20 ms and more. The cause is not established.
 */
const SETTLE_MS = 25

export type DeviceWeights = {
  /** For AddInitializer: the external initializers of the graph, as tensors over addresses that never change. */
  readonly initializers: readonly { name: string; value: Pointer }[]
  /** Brings the weights to the device, unless they are there. Throws an Error when there is no room. */
  load(): Promise<void>
  /** Leaves their memory to others'. No run and no load may be under way. */
  unload(): void
  /** After the session's release. */
  release(): Promise<void>
}

/**
 * Reserves addresses for the weights that an ONNX file names; undefined if it names none. Throws an Error when they do not all lie in one
 * file.
 */
export async function placeWeights(
  file: string,
  device: DeviceMemory,
  api: OrtApi,
  memory: Pointer,
): Promise<DeviceWeights | undefined> {
  const tensors = readExternalTensors(await fs.readFile(file))
  if (tensors.length === 0) return undefined
  const source = await sourceOf(path.dirname(file), tensors)
  const bytes = Math.ceil(source.bytes / device.granularity) * device.granularity
  const address = device.reserve(bytes)
  const initializers = tensors.map(({ name, type, dims, offset, bytes: length }) => {
    const shape = BigInt64Array.from(dims.map(BigInt))
    const start = address + BigInt(offset)
    const value = api.make('CreateTensorWithDataAsOrtValue', memory, start, length, shape, dims.length, type)
    return { name, value }
  })
  const host = new HostFile(source.file, source.bytes, device)
  let mapping: Mapping | undefined
  let loaded: Promise<void> | undefined
  const unload = () => {
    mapping?.leave()
    mapping = undefined
    loaded = undefined
  }
  let loads = 0
  const bring = async () => {
    try {
      mapping = device.map(address, bytes)
      await Promise.all([host.copyTo(address), loads++ > 0 ? setTimeout(SETTLE_MS) : undefined])
    } catch (error) {
      unload()
      throw error
    }
  }
  return {
    initializers,
    load() {
      loaded ??= bring()
      return loaded
    },
    unload,
    async release() {
      for (const { value } of initializers) api.release('Value', value)
      mapping?.free()
      device.unreserve(address, bytes)
      await host.close()
    },
  }
}

/** The one file in which all tensors lie. */
async function sourceOf(directory: string, tensors: readonly ExternalTensor[]) {
  const [location, ...others] = [...new Set(tensors.map(({ location }) => location))]
  if (others.length > 0) throw new Error('the weights of a graph are not in one file')
  if (!isInside(location!)) throw new Error(`the weights are in "${location}", which is not beside the graph`)
  const file = path.join(directory, location!)
  const { size } = await fs.stat(file)
  const beyond = tensors.find(({ offset, bytes }) => offset + bytes > size)
  if (beyond) throw new Error(`${beyond.name} lies beyond the end of ${location}`)
  return { file, bytes: size }
}

/** A file's bytes for the GPU. What is read a second time stays mapped, and so in memory. */
class HostFile {
  readonly #file: string
  readonly #bytes: number
  readonly #device: DeviceMemory
  #kept: Mapped | undefined
  #copies = 0

  constructor(file: string, bytes: number, device: DeviceMemory) {
    this.#file = file
    this.#bytes = bytes
    this.#device = device
  }

  async copyTo(address: Pointer): Promise<void> {
    this.#copies++
    const mapped = this.#kept ?? (await mapFile(this.#file, this.#bytes, this.#device))
    try {
      if (this.#copies > 1) this.#kept = mapped
      await this.#device.copyFromHost(address, mapped.address, this.#bytes)
    } finally {
      if (this.#kept !== mapped) await mapped.close()
    }
  }

  async close(): Promise<void> {
    await this.#kept?.close()
    this.#kept = undefined
  }
}

type Mapped = { address: Pointer; close(): Promise<void> }

let functions: ReturnType<typeof bindPosix> | undefined

/** POSIX only, so they are bound on first use. */
const posix = () => (functions ??= bindPosix())

function bindPosix() {
  const libc = loadLibrary(null)
  return {
    mmap: libc.func('void *mmap(void *address, size_t bytes, int protection, int flags, int file, int64_t offset)'),
    munmap: libc.func('int munmap(void *address, size_t bytes)'),
  }
}

async function mapFile(file: string, bytes: number, device: DeviceMemory): Promise<Mapped> {
  const { mmap, munmap } = posix()
  const opened = await fs.open(file)
  try {
    const address: Pointer = await promisify(mmap.async)(null, bytes, READ, SHARED_AND_READ, opened.fd, 0)
    if (address === MAP_FAILED) throw new Error(`${file} cannot be mapped`)
    const registered = await device.register(address, bytes)
    return {
      address,
      async close() {
        if (registered) await device.unregister(address)
        await promisify(munmap.async)(address, bytes)
      },
    }
  } finally {
    await opened.close()
  }
}
