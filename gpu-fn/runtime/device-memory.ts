// The device memory of weights: reserved addresses, and memory mapped to them.
import type { Address } from './native.ts'

/** A GPU's memory for weights (cuda.ts). */
export type DeviceMemory = {
  /** Ranges are multiples of this many bytes. */
  readonly granularity: number
  /** Reserves a range of addresses without memory. */
  reserve(bytes: number): Address
  unreserve(address: Address, bytes: number): void
  /** Maps memory to a range, idle memory of the pool first. Throws an Error if the device has no memory left. */
  map(address: Address, bytes: number): Mapping
  /** Allows the device to read a mapped file directly, which is ten times as fast; false if unsupported. */
  register(address: Address, bytes: number): Promise<boolean>
  unregister(address: Address): Promise<void>
  /** Copies from native host memory. Resolves when all copies are complete. */
  copyFromHost(copies: readonly Copy[]): Promise<void>
  /**
   * Copies the first `bytes` of a file by parallel reads, concurrently with other copies. Resolves when the copy is complete. Throws an Error
   * if the file is shorter. Absent if unsupported.
   */
  uploadFile?(file: string, to: Address, bytes: number): Promise<void>
  /** Copies from a JavaScript buffer (pageable memory), concurrently with `copyFromHost`. Resolves when the copy is complete. */
  upload(to: Address, from: Uint8Array): Promise<void>
  /** Copies between two addresses of the device; complete when it resolves. */
  copyOnDevice(to: Address, from: Address, bytes: number): Promise<void>
}

export type Copy = { readonly to: Address; readonly from: Address; readonly bytes: number }

export type Mapping = {
  /** Unmaps the memory and keeps it in the pool for the next range. */
  recycle(): void
  /** Unmaps the memory and returns it, with all idle memory, to the system. */
  free(): void
}
