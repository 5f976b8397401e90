// Pinned host memory between a file and a GPU: one buffer is read into while the other one is copied.
import { createStream, cudaRuntime, HOST_TO_DEVICE, selectGpu } from '../cuda-runtime.ts'
import type { Pointer } from '../ort-api.ts'
import { readInto } from '../posix.ts'

export type FileRange = { descriptor: number; start: number; bytes: number }
export type Staging = {
  /** Reads a range and begins its copy. Throws an Error. */
  copy(range: FileRange, to: Pointer): void
  /** Waits for all copies. */
  finish(): void
}

/** cudaHostAlloc's flag: pinned for all GPUs. */
const PORTABLE = 1

/** Allocates buffers for ranges of up to `bytes`, and makes the GPU the current one of this thread. Throws an Error. */
export function openStaging(gpu: number, bytes: number): Staging {
  selectGpu(gpu)
  const { runtime, check } = cudaRuntime()
  const createBuffer = () => {
    const created: [Pointer] = [0n]
    check(runtime.cudaHostAlloc(created, bytes, PORTABLE), 'allocation of pinned memory')
    return { address: created[0], stream: createStream() }
  }
  const buffers = [createBuffer(), createBuffer()] as const
  const wait = ({ stream }: { stream: Pointer }) => check(runtime.cudaStreamSynchronize(stream), 'end of a copy')
  let turn = 0
  return {
    copy({ descriptor, start, bytes }, to) {
      const buffer = buffers[turn++ % 2]!
      wait(buffer)
      readInto(buffer.address, descriptor, start, bytes)
      check(runtime.cudaMemcpyAsync(to, buffer.address, bytes, HOST_TO_DEVICE, buffer.stream), 'copy')
    },
    finish: () => buffers.forEach(wait),
  }
}
