// Host memory in place of a GPU's: weights are placed, copied and removed as on a device, and absent ones read as NaN.
import type { DeviceMemory } from '../../../gpu-fn/runtime/device-memory.ts'
import { loadLibrary } from '../../../gpu-fn/runtime/ffi.ts'
import type { Pointer } from '../../../gpu-fn/runtime/ort-api.ts'

const GRANULARITY = 4096

/** `log` has every call, in order; `room` is how many bytes may be mapped at a time. */
export function hostMemory(room = Number.POSITIVE_INFINITY) {
  const libc = loadLibrary(null)
  const posixMemalign = libc.func('int posix_memalign(_Out_ void **address, size_t alignment, size_t bytes)')
  const memset = libc.func('void *memset(void *to, int value, size_t bytes)')
  const memcpy = libc.func('void *memcpy(void *to, void *from, size_t bytes)')
  const free = libc.func('void free(void *address)')
  const log: string[] = []
  let mapped = 0
  const memory: DeviceMemory = {
    granularity: GRANULARITY,
    reserve(bytes) {
      log.push('reserve')
      const out: [Pointer] = [0n]
      posixMemalign(out, GRANULARITY, bytes)
      memset(out[0], 0xff, bytes)
      return out[0]
    },
    unreserve(address) {
      log.push('unreserve')
      free(address)
    },
    map(address, bytes) {
      if (mapped + bytes > room) throw new Error('CUDA: out of memory')
      mapped += bytes
      log.push('map')
      const unmap = (call: string) => {
        mapped -= bytes
        log.push(call)
        memset(address, 0xff, bytes)
      }
      return { recycle: () => unmap('recycle'), free: () => unmap('free') }
    },
    async register() {
      log.push('register')
      return true
    },
    async unregister() {
      log.push('unregister')
    },
    async copyFromHost(copies) {
      log.push('copy')
      for (const { to, from, bytes } of copies) memcpy(to, from, bytes)
    },
    async upload(to, from) {
      memcpy(to, from, from.length)
    },
    async copyOnDevice(to, from, bytes) {
      memcpy(to, from, bytes)
    },
  }
  return { memory, log }
}
