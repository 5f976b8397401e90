// The device memory of weights: reserved addresses, and memory mapped to them.
import type { Pointer } from './ort-api.ts'

/** Where weights go: a GPU's memory (cuda.ts). */
export type DeviceMemory = {
  /** Every range is a multiple of this many bytes. */
  readonly granularity: number
  /** A range of addresses with nothing behind it. */
  reserve(bytes: number): Pointer
  unreserve(address: Pointer, bytes: number): void
  /** Puts memory behind a range, such as an earlier one left. Throws an Error when there is no room. */
  map(address: Pointer, bytes: number): Mapping
  /** Lets the device read a mapped file by itself, which is ten times as fast; false where that is not possible. */
  register(address: Pointer, bytes: number): Promise<boolean>
  unregister(address: Pointer): Promise<void>
  copyFromHost(to: Pointer, from: Pointer, bytes: number): Promise<void>
}

export type Mapping = {
  /** Keeps the memory for the next range. */
  leave(): void
  /** Gives the memory back to the system. */
  free(): void
}
