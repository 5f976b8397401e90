// The weights of a graph in memory that this process manages, at fixed addresses. They can be unloaded and loaded again, by direct reads
// from the page cache, while the session stays open: opening a session takes longer, and onnxruntime copies at a tenth of the speed.
import fs from 'node:fs/promises'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import { ONNX_DATA_TYPES, tensorBytes } from '../dtype.ts'
import type { StoredTensor } from '../manifest.ts'
import type { DeviceMemory, Mapping } from './device-memory.ts'
import { loadLibrary } from './ffi.ts'
import type { OrtApi, Pointer } from './ort-api.ts'

/** mmap(2): PROT_READ, MAP_SHARED, MAP_POPULATE of Linux */
const READ = 1
const SHARED_AND_READ = 1 | 0x8000
const MAP_FAILED = 2n ** 64n - 1n

/**
 * Minimum time between a later mapping of a range and a run. On an H200 (driver 580.159), runs within 4 ms had partly wrong results, as if
 * the GPU still accessed the memory mapped before; runs after 20 ms or more had none. The cause is unknown.
 */
const SETTLE_MS = 25

export type DeviceWeights = {
  /** Arguments of AddInitializer: the weights as tensors over the reserved addresses. */
  readonly initializers: readonly { name: string; value: Pointer }[]
  /** Copies the weights to the device, unless they are loaded. Throws an Error if the device has no memory left. */
  load(): Promise<void>
  /** Makes their memory available to other weights. Must not be called during a run or a load. */
  unload(): void
  /** To be called after the session's release. */
  release(): Promise<void>
}

/** A weights file and its layout. */
export type WeightsFile = { readonly file: string; readonly tensors: readonly StoredTensor[] }

/** Reserves addresses for the weights of a graph. Throws an Error if the file is shorter than its layout. */
export async function reserveWeights(
  { file, tensors }: WeightsFile,
  device: DeviceMemory,
  api: OrtApi,
  memory: Pointer,
): Promise<DeviceWeights> {
  const { size } = await fs.stat(file)
  const beyond = tensors.find(({ dtype, shape, offset }) => offset + tensorBytes(dtype, shape) > size)
  if (beyond) throw new Error(`${beyond.name} extends beyond the end of ${file}`)
  return new ReservedWeights(new HostFile(file, size, device), tensors, device, api, memory)
}

class ReservedWeights implements DeviceWeights {
  readonly initializers: DeviceWeights['initializers']
  readonly #host: HostFile
  readonly #device: DeviceMemory
  readonly #api: OrtApi
  readonly #bytes: number
  readonly #address: Pointer
  #mapping: Mapping | undefined
  #loaded: Promise<void> | undefined
  #loads = 0

  constructor(host: HostFile, tensors: readonly StoredTensor[], device: DeviceMemory, api: OrtApi, memory: Pointer) {
    this.#host = host
    this.#device = device
    this.#api = api
    this.#bytes = Math.ceil(host.bytes / device.granularity) * device.granularity
    this.#address = device.reserve(this.#bytes)
    this.initializers = tensors.map(({ name, dtype, shape, offset }) => {
      const dims = BigInt64Array.from(shape.map(BigInt))
      const start = this.#address + BigInt(offset)
      const layout = [tensorBytes(dtype, shape), dims, dims.length, ONNX_DATA_TYPES[dtype]]
      return { name, value: api.make('CreateTensorWithDataAsOrtValue', memory, start, ...layout) }
    })
  }

  load(): Promise<void> {
    this.#loaded ??= this.#copy()
    return this.#loaded
  }

  unload(): void {
    this.#mapping?.recycle()
    this.#mapping = undefined
    this.#loaded = undefined
  }

  async release(): Promise<void> {
    for (const { value } of this.initializers) this.#api.release('Value', value)
    this.#mapping?.free()
    this.#device.unreserve(this.#address, this.#bytes)
    await this.#host.close()
  }

  async #copy(): Promise<void> {
    try {
      this.#mapping = this.#device.map(this.#address, this.#bytes)
      const settled = this.#loads++ > 0 ? setTimeout(SETTLE_MS) : undefined
      await Promise.all([this.#host.copyTo(this.#address), settled])
    } catch (error) {
      this.unload()
      throw error
    }
  }
}

/** A mapped weights file. It stays mapped, and so in memory, after the second copy. */
class HostFile {
  readonly bytes: number
  readonly #file: string
  readonly #device: DeviceMemory
  #mapped: Mapped | undefined
  #copies = 0

  constructor(file: string, bytes: number, device: DeviceMemory) {
    this.#file = file
    this.bytes = bytes
    this.#device = device
  }

  async copyTo(address: Pointer): Promise<void> {
    this.#copies++
    const mapped = this.#mapped ?? (await mapFile(this.#file, this.bytes, this.#device))
    try {
      if (this.#copies > 1) this.#mapped = mapped
      await this.#device.copyFromHost(address, mapped.address, this.bytes)
    } finally {
      if (this.#mapped !== mapped) await mapped.close()
    }
  }

  async close(): Promise<void> {
    await this.#mapped?.close()
    this.#mapped = undefined
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
