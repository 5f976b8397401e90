// Host memory in place of a GPU's: weights are placed, copied and removed as on a device, and absent ones read as NaN.
import type { DeviceMemory } from '../../../gpu-fn/runtime/device-memory.ts'
import { type Address, loadNative } from '../../../gpu-fn/runtime/native.ts'

const GRANULARITY = 4096

/** A copy of the bytes at an address. */
export function readMemory(address: Address, bytes: number): Buffer {
  const copy = Buffer.alloc(bytes)
  const { addressOf, copyMemory } = loadNative()
  copyMemory(addressOf(copy), address, bytes)
  return copy
}

/** `log` has every call, in order; `room` is how many bytes may be mapped at a time. */
export function createHostMemory(room = Number.POSITIVE_INFINITY) {
  const { addressOf, copyMemory } = loadNative()
  const reserved = new Map<Address, Uint8Array>()
  const log: string[] = []
  let mapped = 0
  const memory: DeviceMemory = {
    granularity: GRANULARITY,
    reserve(bytes) {
      log.push('reserve')
      const range = Buffer.alloc(bytes + GRANULARITY)
      const offset = GRANULARITY - Number(addressOf(range) % BigInt(GRANULARITY))
      const aligned = range.subarray(offset, offset + bytes).fill(0xff)
      const address = addressOf(aligned)
      reserved.set(address, aligned)
      return address
    },
    unreserve(address) {
      log.push('unreserve')
      reserved.delete(address)
    },
    map(address, bytes) {
      if (mapped + bytes > room) throw new Error('CUDA: out of memory')
      mapped += bytes
      log.push('map')
      const unmap = (call: string) => {
        mapped -= bytes
        log.push(call)
        reserved.get(address)!.fill(0xff, 0, bytes)
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
      for (const { to, from, bytes } of copies) copyMemory(to, from, bytes)
    },
    async upload(to, from) {
      copyMemory(to, addressOf(from), from.length)
    },
    async copyOnDevice(to, from, bytes) {
      copyMemory(to, from, bytes)
    },
  }
  return { memory, log }
}
