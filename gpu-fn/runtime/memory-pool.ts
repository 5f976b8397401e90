// A pool of device memory in pieces of one size. Address ranges reuse each other's pieces without returning them to the system.
import type { Mapping } from './device-memory.ts'
import type { Address } from './native.ts'

/** The driver's operations on one piece, by its handle. Each may throw. */
export type Pieces = {
  readonly bytes: number
  create(): bigint
  free(handle: bigint): void
  map(address: Address, handle: bigint): void
  unmap(address: Address): void
}

type MemoryPool = {
  /** Maps `bytes` at `address`, both multiples of a piece, with idle pieces first. Throws the driver's error, with nothing mapped. */
  map(address: Address, bytes: number): Mapping
}

export function createMemoryPool(pieces: Pieces): MemoryPool {
  const idle: bigint[] = []

  function mapOne(address: Address): bigint {
    const handle = idle.pop() ?? pieces.create()
    try {
      pieces.map(address, handle)
      return handle
    } catch (error) {
      idle.push(handle)
      throw error
    }
  }

  return {
    map(address, bytes) {
      const addressOf = (i: number) => address + BigInt(i * pieces.bytes)
      const handles: bigint[] = []
      const unmap = () => {
        for (const i of handles.keys()) pieces.unmap(addressOf(i))
        return handles.splice(0)
      }
      try {
        for (let i = 0; i < bytes / pieces.bytes; i++) handles.push(mapOne(addressOf(i)))
      } catch (error) {
        idle.push(...unmap())
        throw error
      }
      return {
        recycle: () => void idle.push(...unmap()),
        free: () => {
          for (const handle of [...unmap(), ...idle.splice(0)]) pieces.free(handle)
        },
      }
    },
  }
}
