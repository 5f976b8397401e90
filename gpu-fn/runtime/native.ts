// Declarations of the addon (gpu-fn/native, built by `gpu-fn/kernels/build`): onnxruntime's C API and CUDA as typed objects. `release`
// frees the native memory of an object. Failed calls throw Errors with the messages of onnxruntime or CUDA.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { type Dtype, ONNX_DATA_TYPES } from '../dtype.ts'

/** An address of host or device memory. */
export type Address = bigint
/** Index of a GPU, or null for the host. */
export type Place = number | null

/** An onnxruntime tensor. `address`: address of its first element. */
export interface NativeTensor {
  readonly dims: readonly number[]
  readonly address: Address
  /** Copies the elements of a host tensor. Throws for types other than float32, int64 and uint8. */
  read(): Float32Array | BigInt64Array | Uint8Array
  release(): void
}

/** Session options. `entries`: configuration entries by onnxruntime's keys. */
export type NativeSettings = {
  readonly entries: Readonly<Record<string, string>>
  readonly memoryPattern: boolean
  /** Threads per run on the CPU; one per core by default. */
  readonly threads?: number | undefined
  /** Device index, 0 by default. Sessions with different indices run concurrently, on the CPU as well. */
  readonly device?: number | undefined
  /** Options of the CUDA execution provider. The session runs on the CPU if they are undefined. */
  readonly cuda?: Readonly<Record<string, string>> | undefined
  /** Stream for the session's runs; by default, the provider creates one. */
  readonly stream?: NativeStream | undefined
  /**
   * CUDA: repeat runs as CUDA graphs, from the third run of inputs of the same types and shapes on. The session has its own stream, and a
   * memory arena of its own.
   */
  readonly capture?: boolean | undefined
  /** Libraries of custom operators. */
  readonly libraries?: readonly string[] | undefined
  /** Replacements for initializers of the graph. Their memory must outlive the session. */
  readonly initializers?: Readonly<Record<string, NativeTensor>> | undefined
}

export interface NativeSession {
  /** Names of the graph's outputs, in order. */
  readonly outputs: readonly string[]
  /** Binds inputs and outputs. Each output is written to a given tensor, or to newly allocated host or device memory. */
  prepare(
    inputs: Readonly<Record<string, NativeTensor>>,
    outputs: Readonly<Record<string, NativeTensor | 'host' | 'device'>>,
  ): NativeRun
  /** Allocates device memory from the session's arena. */
  allocate(bytes: number): NativeAllocation
  /** Resolves with the names of up to eight captured kinds of runs, each with its state: `captured`, or why it is not. */
  describeCaptures(): Promise<string[]>
  /** Must be called after the end of all runs. */
  release(): void
}

export interface NativeRun {
  /** Runs on the thread of the session's device, after all earlier runs. Resolves with the newly allocated outputs. Can be called once. */
  start(): Promise<Record<string, NativeTensor>>
  /** Stops the run between two operators. A CUDA graph runs to its end. */
  cancel(): void
}

export interface NativeAllocation {
  readonly address: Address
  release(): void
}

/** Physical and virtual memory, streams and events of a GPU. Sizes must be multiples of 2 MiB. */
export interface Gpu {
  reserve(bytes: number): Address
  unreserve(address: Address, bytes: number): void
  /** Allocates physical memory and returns its handle. */
  create(bytes: number): bigint
  free(handle: bigint): void
  map(address: Address, handle: bigint, bytes: number): void
  unmap(address: Address, bytes: number): void
  /** Registers host memory for direct reads by GPUs. Resolves with false if unsupported. */
  registerMemory(address: Address, bytes: number): Promise<boolean>
  unregisterMemory(address: Address): Promise<void>
  /**
   * Copies the first bytes of a file by parallel reads, after all earlier uploads to the GPU. All copies are complete when the promise
   * settles, even if it is rejected. Throws an Error if the file is shorter.
   */
  uploadFile(file: string, to: Address, bytes: number): Promise<void>
  createStream(): NativeStream
  createEvent(): NativeEvent
}

/** A CUDA stream. All work of a copy has ended when its promise settles, even if it is rejected. */
export interface NativeStream {
  copyFromHost(copies: readonly { to: Address; from: Address; bytes: number }[]): Promise<void>
  /** Copies from a JavaScript buffer. */
  upload(to: Address, from: Uint8Array): Promise<void>
  copyOnDevice(to: Address, from: Address, bytes: number): Promise<void>
  /** Makes later work of this stream wait for the work recorded by the event. */
  wait(event: NativeEvent): void
}

/** A CUDA event. */
export interface NativeEvent {
  record(stream: NativeStream): void
}

/** A memory-mapped file. */
export interface MappedFile {
  readonly address: Address
  close(): Promise<void>
}

export interface Native {
  readonly Tensor: {
    /** Copies elements to a new host tensor. Throws if their count does not match the shape. */
    copyOf(data: Float32Array | BigInt64Array | Uint8Array, dims: readonly number[]): NativeTensor
    /** A tensor over existing memory, without ownership. `type`: ONNX data type. */
    view(place: Place, address: Address, type: number, dims: readonly number[]): NativeTensor
  }
  readonly Session: { open(file: string, settings: NativeSettings): Promise<NativeSession> }
  readonly Gpu: { open(index: number): Gpu }
  readonly MappedFile: { open(file: string, bytes: number): Promise<MappedFile> }
  /** Loads an operator library. Returns the reason if it does not support the first GPU, otherwise null. */
  findUnsupported(library: string): string | null
  /** The address of a buffer, valid while the buffer exists. */
  addressOf(buffer: ArrayBufferView): Address
  /** Copies within host memory. */
  copyMemory(to: Address, from: Address, bytes: number): void
}

export const NATIVE_LIBRARY = path.join(import.meta.dirname, '../kernels/dist/octet.node')
/** The addon runs on Linux. */
const RUNTIME = 'libonnxruntime.so.1'

let loaded: Native | undefined

/** Loads the addon with onnxruntime-node's library, once per process. Throws an Error if it has not been built. */
export function loadNative(): Native {
  if (loaded) return loaded
  if (!existsSync(NATIVE_LIBRARY)) throw new Error(`${NATIVE_LIBRARY} is missing; gpu-fn/kernels/build creates it`)
  const addon: Native & { load(library: string): void } = createRequire(import.meta.url)(NATIVE_LIBRARY)
  addon.load(findRuntimeLibrary())
  loaded = addon
  return addon
}

/** The file of onnxruntime-node's library for this machine. */
function findRuntimeLibrary(): string {
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
