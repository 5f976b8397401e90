// GPU memory for weights: reserved address ranges with memory mapped on demand, and copies from mapped files.
import type { DeviceMemory } from './device-memory.ts'
import { createMemoryPool } from './memory-pool.ts'
import { loadNative, type Native } from './native.ts'

/** Must be a multiple of a GPU's granularity, which is 2 MiB. */
const PIECE_BYTES = 16 << 20

/** By index of the GPU. */
const loaded = new Map<number, DeviceMemory>()

/** The memory of a GPU, by CUDA device index. Throws an Error if the addon, CUDA's libraries or the GPU is missing. */
export function loadCuda(index: number): DeviceMemory {
  const native = loadNative()
  try {
    const memory = loaded.get(index) ?? open(native, index)
    loaded.set(index, memory)
    return memory
  } catch (cause) {
    throw new Error(`CUDA 13 is not available: ${(cause as Error).message}`, { cause })
  }
}

/** The same without uploads of files, which are then mapped for their first copy too. */
export function loadCudaForMapping(index: number): DeviceMemory {
  const { uploadFile: _, ...memory } = loadCuda(index)
  return memory
}

function open({ Gpu }: Native, index: number): DeviceMemory {
  const gpu = Gpu.open(index)
  // A copy from pageable host memory blocks on all preceding work of its stream, so uploads have their own stream.
  const [copies, uploads] = [gpu.createStream(), gpu.createStream()]
  const pool = createMemoryPool({
    bytes: PIECE_BYTES,
    create: () => gpu.create(PIECE_BYTES),
    free: (handle) => gpu.free(handle),
    map: (address, handle) => gpu.map(address, handle, PIECE_BYTES),
    unmap: (address) => gpu.unmap(address, PIECE_BYTES),
  })
  return {
    granularity: PIECE_BYTES,
    reserve: (bytes) => gpu.reserve(bytes),
    unreserve: (address, bytes) => gpu.unreserve(address, bytes),
    map: pool.map,
    register: (address, bytes) => gpu.registerMemory(address, bytes),
    unregister: (address) => gpu.unregisterMemory(address),
    copyFromHost: (ranges) => copies.copyFromHost(ranges),
    upload: (to, from) => uploads.upload(to, from),
    uploadFile: (file, to, bytes) => gpu.uploadFile(file, to, bytes),
    copyOnDevice: (to, from, bytes) => copies.copyOnDevice(to, from, bytes),
  }
}
