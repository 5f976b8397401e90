// The parts of onnxruntime's C API that sessions use, through koffi, from the library of onnxruntime-node. OrtApi is a table of functions in a
// fixed order, so that an index identifies a function; see onnxruntime_c_api.h of onnxruntime 1.29.
import { createRequire } from 'node:module'
import path from 'node:path'
import { promisify } from 'node:util'
import { koffi, loadLibrary } from './ffi.ts'

export type Pointer = bigint

/** Version of the table: onnxruntime 1.29. */
const API_VERSION = 29
const OUT = koffi.out('void **')
const STRINGS = 'const char **'
const PATH = process.platform === 'win32' ? 'str16' : 'str'

// Every function returns a status, null for success. `OUT` receives a new pointer.
const FUNCTIONS = {
  CreateEnv: [3, 'int', 'str', OUT],
  CreateSession: [7, 'void *', PATH, 'void *', OUT],
  CreateSessionOptions: [10, OUT],
  EnableMemPattern: [16, 'void *'],
  DisableMemPattern: [17, 'void *'],
  SetSessionLogSeverityLevel: [22, 'void *', 'int'],
  SetIntraOpNumThreads: [24, 'void *', 'int'],
  SessionGetInputCount: [30, 'void *', koffi.out('size_t *')],
  SessionGetOutputCount: [31, 'void *', koffi.out('size_t *')],
  SessionGetInputName: [36, 'void *', 'size_t', 'void *', OUT],
  SessionGetOutputName: [37, 'void *', 'size_t', 'void *', OUT],
  CreateRunOptions: [39, OUT],
  RunOptionsSetTerminate: [46, 'void *'],
  CreateTensorAsOrtValue: [48, 'void *', 'int64_t *', 'size_t', 'int', OUT],
  CreateTensorWithDataAsOrtValue: [49, 'void *', 'void *', 'size_t', 'int64_t *', 'size_t', 'int', OUT],
  GetTensorMutableData: [51, 'void *', OUT],
  GetTensorElementType: [60, 'void *', koffi.out('int *')],
  GetDimensionsCount: [61, 'void *', koffi.out('size_t *')],
  GetDimensions: [62, 'void *', koffi.out('int64_t *'), 'size_t'],
  GetTensorTypeAndShape: [65, 'void *', OUT],
  CreateMemoryInfo: [68, 'str', 'int', 'int', 'int', OUT],
  AllocatorAlloc: [75, 'void *', 'size_t', OUT],
  AllocatorFree: [76, 'void *', 'void *'],
  GetAllocatorWithDefaultOptions: [78, OUT],
  AddSessionConfigEntry: [130, 'void *', 'str', 'str'],
  CreateAllocator: [131, 'void *', 'void *', OUT],
  RunWithBinding: [133, 'void *', 'void *', 'void *'],
  CreateIoBinding: [134, 'void *', OUT],
  BindInput: [136, 'void *', 'str', 'void *'],
  BindOutput: [137, 'void *', 'str', 'void *'],
  BindOutputToDevice: [138, 'void *', 'str', 'void *'],
  GetBoundOutputValues: [140, 'void *', 'void *', OUT, koffi.out('size_t *')],
  AddInitializer: [150, 'void *', 'str', 'void *'],
  CreateArenaCfgV2: [164, STRINGS, 'size_t *', 'size_t', OUT],
  SessionOptionsAppendExecutionProvider_CUDA_V2: [204, 'void *', 'void *'],
  CreateCUDAProviderOptions: [205, OUT],
  UpdateCUDAProviderOptions: [206, 'void *', STRINGS, STRINGS, 'size_t'],
  RegisterCustomOpsLibrary_V2: [228, 'void *', PATH],
  CreateAndRegisterAllocatorV2: [259, 'void *', 'str', 'void *', 'void *', STRINGS, STRINGS, 'size_t'],
} as const

const RELEASES = {
  Status: 93,
  Session: 95,
  Value: 96,
  RunOptions: 97,
  TensorTypeAndShapeInfo: 99,
  SessionOptions: 100,
  Allocator: 132,
  IoBinding: 135,
  ArenaCfg: 157,
  CUDAProviderOptions: 208,
} as const
const GET_ERROR_MESSAGE = 2

type OrtFunction = keyof typeof FUNCTIONS
type Released = keyof typeof RELEASES

export type OrtApi = {
  /** Throws onnxruntime's error. */
  call(name: OrtFunction, ...args: unknown[]): void
  /** Calls a function on one of koffi's threads. The arguments must stay alive until it resolves. */
  callAsync(name: OrtFunction, ...args: unknown[]): Promise<void>
  /** Calls a function and returns the pointer in its last parameter. */
  make(name: OrtFunction, ...args: unknown[]): Pointer
  /** Calls a function and returns the number in its last parameter. */
  count(name: OrtFunction, ...args: unknown[]): number
  release(kind: Released, pointer: Pointer): void
  /** Copies between JavaScript's and native memory. */
  copy(to: Pointer | ArrayBufferView, from: Pointer | ArrayBufferView, bytes: number): void
  /** The pointers, or the text, at an address. */
  readPointers(address: Pointer, count: number): Pointer[]
  readString(address: Pointer): string
}

let loaded: OrtApi | undefined

/** The API, loaded once per thread. Throws an Error if the library has another version. */
export function loadOrtApi(): OrtApi {
  loaded ??= open(libraryFile())
  return loaded
}

const LIBRARIES: Partial<Record<NodeJS.Platform, string>> = {
  linux: 'libonnxruntime.so.1',
  darwin: 'libonnxruntime.1.dylib',
  win32: 'onnxruntime.dll',
}

/** The file of onnxruntime-node's library for this machine. */
function libraryFile(): string {
  const entry = createRequire(import.meta.url).resolve('onnxruntime-node')
  const name = LIBRARIES[process.platform]
  if (!name) throw new Error(`onnxruntime-node has no library for ${process.platform}`)
  return path.join(path.dirname(entry), '../bin/napi-v6', process.platform, process.arch, name)
}

function open(file: string): OrtApi {
  const library = loadLibrary(file, { global: true })
  const base = library.func('OrtGetApiBase', 'void *', [])() as Pointer
  const getApi = koffi.decode(koffi.decode(base, 'void *'), koffi.proto('void *', ['uint32_t']))
  const table = getApi(API_VERSION) as Pointer | null
  if (!table) throw new Error(`${file} is older than the C API of version ${API_VERSION}`)
  const at = (index: number, result: string, parameters: readonly unknown[]) =>
    koffi.decode(koffi.decode(table, index * 8, 'void *'), koffi.proto(result, parameters as string[]))

  const functions = new Map<OrtFunction, ReturnType<typeof at>>()
  for (const [name, [index, ...parameters]] of Object.entries(FUNCTIONS))
    functions.set(name as OrtFunction, at(index, 'void *', parameters))
  const releases = new Map<Released, ReturnType<typeof at>>()
  for (const [name, index] of Object.entries(RELEASES)) releases.set(name as Released, at(index, 'void', ['void *']))
  const messageOf = at(GET_ERROR_MESSAGE, 'str', ['void *'])
  const memcpy = loadLibrary(null).func('memcpy', 'void *', ['void *', 'void *', 'size_t'])

  const check = (status: Pointer | null) => {
    if (!status) return
    const message = messageOf(status) as string
    releases.get('Status')!(status)
    throw new Error(message)
  }
  const call: OrtApi['call'] = (name, ...args) => check(functions.get(name)!(...args))
  const write = <T>(name: OrtFunction, args: unknown[]): T => {
    const out = [null] as [T | null]
    call(name, ...args, out)
    return out[0]!
  }
  return {
    call,
    callAsync: async (name, ...args) => check((await promisify(functions.get(name)!.async)(...args)) as Pointer | null),
    make: (name, ...args) => write<Pointer>(name, args),
    count: (name, ...args) => Number(write<number | bigint>(name, args)),
    release: (kind, pointer) => releases.get(kind)!(pointer),
    copy: (to, from, bytes) => void memcpy(to, from, bytes),
    readPointers: (address, count) => koffi.decode(address, 'void *', count),
    readString: (address) => koffi.decode.string(address),
  }
}
