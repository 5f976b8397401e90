// The parts of CUDA that weights need, through koffi: reserved addresses with memory mapped on demand (the driver's virtual memory
// management), and copies from mapped files. CUDA C Programming Guide 13, "Virtual Memory Management"; CUDA Runtime API 13.
import { promisify } from 'node:util'
import type { DeviceMemory } from './device-memory.ts'
import { loadLibrary } from './ffi.ts'
import { createMemoryPool } from './memory-pool.ts'
import type { Pointer } from './ort-api.ts'

// CUmemAllocationType, CUmemLocationType, CUmemAccess_flags, cudaHostRegister's flag, cudaMemcpyKind
const PINNED = 1
const DEVICE = 1
const READ_WRITE = 3
const REGISTER_READ_ONLY = 8
const HOST_TO_DEVICE = 1
const DEVICE_TO_DEVICE = 3
/** Must be a multiple of a GPU's granularity, which is 2 MiB. */
const PIECE_BYTES = 16 << 20
/** The first GPU, which onnxruntime's sessions use as well. */
const GPU = 0

let loaded: DeviceMemory | undefined

/** The memory of the first GPU. Throws an Error without CUDA's libraries or a GPU. */
export function loadCuda(): DeviceMemory {
  try {
    loaded ??= open()
    return loaded
  } catch (cause) {
    throw new Error(`CUDA 13 is not available: ${(cause as Error).message}`, { cause })
  }
}

const RUNTIME = {
  cudaGetErrorString: 'const char *cudaGetErrorString(int error)',
  cudaGetLastError: 'int cudaGetLastError()',
  cudaSetDevice: 'int cudaSetDevice(int device)',
  cudaDeviceSynchronize: 'int cudaDeviceSynchronize()',
  cudaMemcpy: 'int cudaMemcpy(void *to, void *from, size_t bytes, int kind)',
  cudaHostRegister: 'int cudaHostRegister(void *address, size_t bytes, unsigned int flags)',
  cudaHostUnregister: 'int cudaHostUnregister(void *address)',
} as const

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

type CFunction = ReturnType<ReturnType<typeof loadLibrary>['func']>

function bind<Name extends string>(file: string, declarations: Record<Name, string>): Record<Name, CFunction> {
  const library = loadLibrary(file)
  const bound = Object.entries<string>(declarations).map(([name, declaration]) => [name, library.func(declaration)])
  return Object.fromEntries(bound)
}

/** Calls a slow function on one of koffi's threads. */
const onThread = async (call: CFunction, ...args: unknown[]) => (await promisify(call.async)(...args)) as number

function open(): DeviceMemory {
  limitWorkspaces()
  const runtime = bind('libcudart.so.13', RUNTIME)
  const driver = bind('libcuda.so.1', DRIVER)
  const check = (error: number) => {
    if (error !== 0) throw new Error(`CUDA: ${runtime.cudaGetErrorString(error)}`)
  }
  const checkDriver = (error: number) => {
    const text: [string | null] = [null]
    if (error !== 0) driver.cuGetErrorString(error, text)
    if (error !== 0) throw new Error(`CUDA: ${text[0] ?? `error ${error}`}`)
  }
  // Creates this thread's context, which the driver's functions require.
  check(runtime.cudaSetDevice(GPU))
  const { properties, access } = deviceDescriptors()
  const pool = createMemoryPool({
    bytes: PIECE_BYTES,
    create() {
      const out: [number | bigint] = [0]
      checkDriver(driver.cuMemCreate(out, PIECE_BYTES, properties, 0))
      return BigInt(out[0])
    },
    map(address, handle) {
      checkDriver(driver.cuMemMap(address, PIECE_BYTES, 0, handle, 0))
      checkDriver(driver.cuMemSetAccess(address, PIECE_BYTES, access, 1))
    },
    unmap: (address) => checkDriver(driver.cuMemUnmap(address, PIECE_BYTES)),
    free: (handle) => checkDriver(driver.cuMemRelease(handle)),
  })
  return {
    granularity: PIECE_BYTES,
    reserve(bytes) {
      const address: [Pointer] = [0n]
      checkDriver(driver.cuMemAddressReserve(address, bytes, 0, null, 0))
      return address[0]
    },
    unreserve: (address, bytes) => checkDriver(driver.cuMemAddressFree(address, bytes)),
    map: pool.map,
    async register(address, bytes) {
      const error = await onThread(runtime.cudaHostRegister, address, bytes, REGISTER_READ_ONLY)
      if (error !== 0) runtime.cudaGetLastError()
      return error === 0
    },
    unregister: async (address) => check(await onThread(runtime.cudaHostUnregister, address)),
    copyFromHost: async (to, from, bytes) => check(await onThread(runtime.cudaMemcpy, to, from, bytes, HOST_TO_DEVICE)),
    async copyOnDevice(to, from, bytes) {
      check(runtime.cudaMemcpy(to, from, bytes, DEVICE_TO_DEVICE))
      // Such a copy returns before its end, and onnxruntime's streams do not wait for it.
      check(runtime.cudaDeviceSynchronize())
    },
  }
}

/** cuBLAS allocates a workspace per session, on Hopper of 32 MiB or more by default, and is not slower with 8 MiB. */
function limitWorkspaces(): void {
  const setenv = loadLibrary(null).func('int setenv(const char *name, const char *value, int overwrite)')
  setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:2', 0)
}

/** CUmemAllocationProp { type, requestedHandleTypes, location { type, id }, … } and CUmemAccessDesc { location { type, id }, flags } */
function deviceDescriptors() {
  const properties = Buffer.alloc(32)
  const access = Buffer.alloc(12)
  properties.writeInt32LE(PINNED, 0)
  for (const [buffer, offset] of [
    [properties, 8],
    [access, 0],
  ] as const) {
    buffer.writeInt32LE(DEVICE, offset)
    buffer.writeInt32LE(GPU, offset + 4)
  }
  access.writeInt32LE(READ_WRITE, 8)
  return { properties, access }
}
