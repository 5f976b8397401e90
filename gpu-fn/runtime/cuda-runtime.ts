// CUDA's runtime library through koffi, and functions of this thread's GPU. CUDA Runtime API 13.
import { loadLibrary } from './ffi.ts'
import type { Pointer } from './ort-api.ts'

// cudaStreamCreateWithFlags' flag, cudaMemcpyKind
const NON_BLOCKING = 1
export const HOST_TO_DEVICE = 1

const RUNTIME = {
  cudaGetErrorString: 'const char *cudaGetErrorString(int error)',
  cudaGetLastError: 'int cudaGetLastError()',
  cudaSetDevice: 'int cudaSetDevice(int device)',
  cudaStreamCreateWithFlags: 'int cudaStreamCreateWithFlags(_Out_ void **stream, unsigned int flags)',
  cudaStreamSynchronize: 'int cudaStreamSynchronize(void *stream)',
  cudaHostAlloc: 'int cudaHostAlloc(_Out_ void **address, size_t bytes, unsigned int flags)',
  cudaMemcpyAsync: 'int cudaMemcpyAsync(void *to, void *from, size_t bytes, int kind, void *stream)',
  cudaHostRegister: 'int cudaHostRegister(void *address, size_t bytes, unsigned int flags)',
  cudaHostUnregister: 'int cudaHostUnregister(void *address)',
} as const

export type CFunction = ReturnType<ReturnType<typeof loadLibrary>['func']>

/** Functions of a library by name, from their C declarations. */
export function bind<Name extends string>(file: string, declarations: Record<Name, string>): Record<Name, CFunction> {
  const library = loadLibrary(file)
  const bound = Object.entries<string>(declarations).map(([name, declaration]) => [name, library.func(declaration)])
  return Object.fromEntries(bound)
}

let bound: ReturnType<typeof bindRuntime> | undefined

function bindRuntime() {
  const runtime = bind('libcudart.so.13', RUNTIME)
  const check = (error: number, what: string) => {
    if (error !== 0) throw new Error(`CUDA: ${what}: ${runtime.cudaGetErrorString(error)}`)
  }
  return { runtime, check }
}

/** The runtime's functions, and a check of their results that throws an Error. */
export const cudaRuntime = () => (bound ??= bindRuntime())

/** Makes a GPU the current one of this thread, on which CUDA allocates. Throws an Error. */
export function selectGpu(gpu: number): void {
  const { runtime, check } = cudaRuntime()
  check(runtime.cudaSetDevice(gpu), `selection, GPU ${gpu}`)
}

/** Creates a stream of the current GPU that does not wait for other streams. Throws an Error. */
export function createStream(): Pointer {
  const { runtime, check } = cudaRuntime()
  const created: [Pointer] = [0n]
  check(runtime.cudaStreamCreateWithFlags(created, NON_BLOCKING), 'creation of a stream')
  return created[0]
}
