// The parts of CUDA that weights need, through koffi: reserved addresses with memory mapped on demand (the driver's virtual memory
// management), and copies from mapped files. CUDA C Programming Guide 13, "Virtual Memory Management"; CUDA Runtime API 13.
import { setImmediate } from 'node:timers/promises'
import { promisify } from 'node:util'
import { bind, type CFunction, createStream, cudaRuntime, HOST_TO_DEVICE, selectGpu } from './cuda-runtime.ts'
import type { DeviceMemory } from './device-memory.ts'
import { loadLibrary } from './ffi.ts'
import { createMemoryPool } from './memory-pool.ts'
import type { Pointer } from './ort-api.ts'
import { uploadFile } from './upload/upload.ts'

// CUmemAllocationType, CUmemLocationType, CUmemAccess_flags, cudaHostRegister's flag, cudaMemcpyKind
const PINNED = 1
const DEVICE = 1
const READ_WRITE = 3
/** Portable, for copies to all GPUs, and read-only. */
const REGISTER = 1 | 8
const DEVICE_TO_DEVICE = 3
/** Must be a multiple of a GPU's granularity, which is 2 MiB. */
const PIECE_BYTES = 16 << 20
/** Bytes per call of a copy: one from unregistered memory blocks the calling thread, for about 40 ms at this size. */
const COPY_BYTES = 256 << 20

/** By index of the GPU. */
const loaded = new Map<number, DeviceMemory>()

/** The memory of a GPU, by CUDA's index. Throws an Error without CUDA's libraries or this GPU. */
export function loadCuda(gpu: number): DeviceMemory {
  try {
    const memory = loaded.get(gpu) ?? open(gpu)
    loaded.set(gpu, memory)
    return memory
  } catch (cause) {
    throw new Error(`CUDA 13 is not available: ${(cause as Error).message}`, { cause })
  }
}

const DRIVER = {
  cuGetErrorString: 'int cuGetErrorString(int error, _Out_ const char **text)',
  cuMemAddressReserve:
    'int cuMemAddressReserve(_Out_ void **address, size_t bytes, size_t alignment, void *wish, uint64_t flags)',
  cuMemAddressFree: 'int cuMemAddressFree(void *address, size_t bytes)',
  cuMemCreate: 'int cuMemCreate(_Out_ uint64_t *handle, size_t bytes, void *properties, uint64_t flags)',
  cuMemRelease: 'int cuMemRelease(uint64_t handle)',
  cuMemMap: 'int cuMemMap(void *address, size_t bytes, size_t offset, uint64_t handle, uint64_t flags)',
  cuMemUnmap: 'int cuMemUnmap(void *address, size_t bytes)',
  cuMemSetAccess: 'int cuMemSetAccess(void *address, size_t bytes, void *descriptors, size_t count)',
} as const

/** Calls a slow function on one of koffi's threads. */
const onThread = async (call: CFunction, ...args: unknown[]) => (await promisify(call.async)(...args)) as number

function open(gpu: number): DeviceMemory {
  limitWorkspaces()
  const { runtime, check: checkAny } = cudaRuntime()
  const driver = bind('libcuda.so.1', DRIVER)
  const check = (error: number, what: string) => checkAny(error, `${what}, GPU ${gpu}`)
  const checkDriver = (error: number, what: string) => {
    const text: [string | null] = [null]
    if (error !== 0) driver.cuGetErrorString(error, text)
    if (error !== 0) throw new Error(`CUDA: ${what}, GPU ${gpu}: ${text[0] ?? `error ${error}`}`)
  }
  // Creates this thread's context, which the driver's functions require.
  selectGpu(gpu)
  // A copy from pageable host memory blocks on all preceding work of its stream, so uploads have their own stream.
  const [stream, uploads] = [createStream(), createStream()]
  const { properties, access } = deviceDescriptors(gpu)
  const pool = createMemoryPool({
    bytes: PIECE_BYTES,
    create() {
      const out: [number | bigint] = [0]
      checkDriver(driver.cuMemCreate(out, PIECE_BYTES, properties, 0), 'allocation')
      return BigInt(out[0])
    },
    map(address, handle) {
      checkDriver(driver.cuMemMap(address, PIECE_BYTES, 0, handle, 0), 'mapping')
      checkDriver(driver.cuMemSetAccess(address, PIECE_BYTES, access, 1), 'access')
    },
    unmap: (address) => checkDriver(driver.cuMemUnmap(address, PIECE_BYTES), 'end of a mapping'),
    free: (handle) => checkDriver(driver.cuMemRelease(handle), 'release'),
  })
  // On this thread, after selecting the GPU. On a thread of koffi, the current GPU would be that of the last session opened there, which
  // cannot access the mapped memory of another.
  const copy = (to: Pointer, from: Pointer | Uint8Array, bytes: number, kind: number, on = stream) => {
    selectGpu(gpu)
    check(runtime.cudaMemcpyAsync(to, from, bytes, kind, on), 'copy')
  }
  const finish = async (on = stream) => check(await onThread(runtime.cudaStreamSynchronize, on), 'end of a copy')
  return {
    granularity: PIECE_BYTES,
    reserve(bytes) {
      const address: [Pointer] = [0n]
      checkDriver(driver.cuMemAddressReserve(address, bytes, 0, null, 0), 'reservation of addresses')
      return address[0]
    },
    unreserve: (address, bytes) => checkDriver(driver.cuMemAddressFree(address, bytes), 'release of addresses'),
    map: pool.map,
    uploadFile: (file, to, bytes) => uploadFile({ gpu, file, to, bytes }),
    async register(address, bytes) {
      const error = await onThread(runtime.cudaHostRegister, address, bytes, REGISTER)
      if (error !== 0) runtime.cudaGetLastError()
      return error === 0
    },
    unregister: async (address) => check(await onThread(runtime.cudaHostUnregister, address), 'end of a registration'),
    async copyFromHost(copies) {
      let begun = 0
      try {
        for (const { to, from, bytes } of copies)
          for (let done = 0; done < bytes; done += COPY_BYTES) {
            const part = Math.min(COPY_BYTES, bytes - done)
            copy(to + BigInt(done), from + BigInt(done), part, HOST_TO_DEVICE)
            begun += part
            if (begun < COPY_BYTES) continue
            begun = 0
            await setImmediate()
          }
      } finally {
        // Also after an error: the caller then unmaps memory that begun copies use.
        await finish()
      }
    },
    async upload(to, from) {
      try {
        for (let done = 0; done < from.length; done += COPY_BYTES) {
          const part = from.subarray(done, done + COPY_BYTES)
          copy(to + BigInt(done), part, part.length, HOST_TO_DEVICE, uploads)
          await setImmediate()
        }
      } finally {
        await finish(uploads)
      }
    },
    async copyOnDevice(to, from, bytes) {
      copy(to, from, bytes, DEVICE_TO_DEVICE)
      await finish()
    },
  }
}

/** cuBLAS allocates a workspace per session, on Hopper of 32 MiB or more by default, and is not slower with 8 MiB. */
function limitWorkspaces(): void {
  const setenv = loadLibrary(null).func('int setenv(const char *name, const char *value, int overwrite)')
  setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:2', 0)
}

/** CUmemAllocationProp { type, requestedHandleTypes, location { type, id }, … } and CUmemAccessDesc { location { type, id }, flags } */
function deviceDescriptors(gpu: number) {
  const properties = Buffer.alloc(32)
  const access = Buffer.alloc(12)
  properties.writeInt32LE(PINNED, 0)
  for (const [buffer, offset] of [
    [properties, 8],
    [access, 0],
  ] as const) {
    buffer.writeInt32LE(DEVICE, offset)
    buffer.writeInt32LE(gpu, offset + 4)
  }
  access.writeInt32LE(READ_WRITE, 8)
  return { properties, access }
}
