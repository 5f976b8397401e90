// The addon of gpu-fn/native, which `gpu-fn/kernels/build` compiles: onnxruntime's C API and CUDA as typed objects. Its objects hold native
// memory until they are released. Calls throw Errors with the messages of onnxruntime and CUDA.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { type Dtype, ONNX_DATA_TYPES } from '../dtype.ts'

/** An address of host or device memory. */
export type Address = bigint
/** Index of a GPU; null stands for the host. */
export type Place = number | null

/** A tensor of onnxruntime. `address`: of its first value. */
export interface NativeTensor {
  readonly dims: readonly number[]
  readonly address: Address
  /** Copies the values of a tensor in host memory. Throws if they are neither float32 nor int64 nor uint8. */
  read(): Float32Array | BigInt64Array | Uint8Array
  release(): void
}

/** Settings of a session, by onnxruntime's names. */
export type NativeSettings = {
  readonly entries: Readonly<Record<string, string>>
  readonly memoryPattern: boolean
  /** Threads per run on the CPU; one per core by default. */
  readonly threads?: number | undefined
  /** Index of the GPU, 0 by default. Runs of different devices are concurrent, also on the CPU. */
  readonly device?: number | undefined
  /** Options of the CUDA execution provider; without them the session runs on the CPU. */
  readonly cuda?: Readonly<Record<string, string>> | undefined
  /** The stream of its runs, instead of the provider's own. */
  readonly stream?: NativeStream | undefined
  /** Libraries of operators. */
  readonly libraries?: readonly string[] | undefined
  /** Tensors in place of the graph's weights. Their memory must outlive the session. */
  readonly initializers?: Readonly<Record<string, NativeTensor>> | undefined
}

export interface NativeSession {
  /** Names of the graph's outputs, in order. */
  readonly outputs: readonly string[]
  /** Each output is written to a tensor, or to new memory of the host or of the session's device. */
  prepare(
    inputs: Readonly<Record<string, NativeTensor>>,
    outputs: Readonly<Record<string, NativeTensor | 'host' | 'device'>>,
  ): NativeRun
  /** Allocates memory of the session's device from its arena. */
  allocate(bytes: number): NativeAllocation
  /** To be called after the end of all runs. */
  release(): void
}

export interface NativeRun {
  /** Runs on the thread of the session's device, after all earlier runs. Resolves with the outputs in new memory. To be called once. */
  start(): Promise<Record<string, NativeTensor>>
  /** Stops the run between two operators. */
  cancel(): void
}

export interface NativeAllocation {
  readonly address: Address
  release(): void
}

/** Physical and virtual memory of a GPU, and its streams. Sizes are multiples of 2 MiB. */
export interface Gpu {
  reserve(bytes: number): Address
  unreserve(address: Address, bytes: number): void
  /** Allocates memory without an address and returns its handle. */
  create(bytes: number): bigint
  free(handle: bigint): void
  map(address: Address, handle: bigint, bytes: number): void
  unmap(address: Address, bytes: number): void
  /** Allows GPUs to read host memory directly; false if unsupported. */
  registerMemory(address: Address, bytes: number): Promise<boolean>
  unregisterMemory(address: Address): Promise<void>
  createStream(): NativeStream
  createEvent(): NativeEvent
}

/** A queue of a GPU. A copy is complete, also after an error, when its promise settles. */
export interface NativeStream {
  copyFromHost(copies: readonly { to: Address; from: Address; bytes: number }[]): Promise<void>
  /** Copies from a JavaScript buffer. */
  upload(to: Address, from: Uint8Array): Promise<void>
  copyOnDevice(to: Address, from: Address, bytes: number): Promise<void>
  /** Later work of this stream begins after the work that the event recorded. */
  wait(event: NativeEvent): void
}

/** A point in the work of a stream. */
export interface NativeEvent {
  record(stream: NativeStream): void
}

/** A file in the address space of the process. */
export interface MappedFile {
  readonly address: Address
  close(): Promise<void>
}

export interface Native {
  readonly Tensor: {
    /** A copy of values in host memory. Throws if they do not have this shape. */
    copyOf(data: Float32Array | BigInt64Array | Uint8Array, dims: readonly number[]): NativeTensor
    /** A tensor over memory that it does not own. `type`: ONNX's number. */
    view(place: Place, address: Address, type: number, dims: readonly number[]): NativeTensor
  }
  readonly Session: { open(file: string, settings: NativeSettings): Promise<NativeSession> }
  readonly Gpu: { open(index: number): Gpu }
  readonly MappedFile: { open(file: string, bytes: number): Promise<MappedFile> }
  /** Loads a library of kernels. Returns the reason that it does not support the first GPU, or null. */
  findUnsupported(library: string): string | null
  /** The address of a buffer, valid while the buffer exists. */
  addressOf(buffer: ArrayBufferView): Address
  /** Copies between addresses of the host. */
  copyMemory(to: Address, from: Address, bytes: number): void
}

export const NATIVE_LIBRARY = path.join(import.meta.dirname, '../kernels/dist/octet.node')
/** The addon runs on Linux. */
const RUNTIME = 'libonnxruntime.so.1'

let loaded: Native | undefined

/** The addon with onnxruntime-node's library, loaded once. Throws an Error if it has not been built. */
export function loadNative(): Native {
  if (loaded) return loaded
  if (!existsSync(NATIVE_LIBRARY)) throw new Error(`${NATIVE_LIBRARY} is missing; gpu-fn/kernels/build creates it`)
  const addon: Native & { load(library: string): void } = createRequire(import.meta.url)(NATIVE_LIBRARY)
  addon.load(runtimeLibrary())
  loaded = addon
  return addon
}

/** The file of onnxruntime-node's library for this machine. */
function runtimeLibrary(): string {
  const entry = createRequire(import.meta.url).resolve('onnxruntime-node')
  return path.join(path.dirname(entry), '../bin/napi-v6/linux', process.arch, RUNTIME)
}

/** A tensor over memory of a GPU or the host, without ownership of the memory. */
export function viewMemory(
  place: Place,
  { address, dtype, shape }: { address: Address; dtype: Dtype; shape: readonly number[] },
): NativeTensor {
  return loadNative().Tensor.view(place, address, ONNX_DATA_TYPES[dtype], shape)
}
