// Sessions on onnxruntime's C API, for what the Node binding has not: CUDA's options, operators of our own, tensors that stay on the
// device, runs that leave the event loop free and that can be canceled. It runs on the CPU as well, where tests hold it against the binding.

import { ONNX_DATA_TYPES } from '../dtype.ts'
import type { DeviceMemory } from './device-memory.ts'
import { type DeviceWeights, reserveWeights, type WeightsFile } from './device-weights.ts'
import { loadOrtApi, type OrtApi, type Pointer } from './ort-api.ts'
import { environmentOf, FATAL_ONLY, memoryOf, shareArena } from './ort-environment.ts'
import { runOnThread } from './run-thread.ts'
import type { DeviceTensor, RunOptions, Session, Tensor } from './session.ts'
import { failingWith } from './session.ts'

const { float32: FLOAT32, uint8: UINT8, int64: INT64 } = ONNX_DATA_TYPES

/** Settings of onnxruntime, as names and values of its own. */
export type NativeSettings = {
  readonly entries: Record<string, string>
  readonly memoryPattern: boolean
  readonly threads?: number | undefined
  /** Options of the CUDA provider; without them the session runs on the CPU. */
  readonly cuda?: Record<string, string>
  /** Libraries of operators. */
  readonly libraries?: readonly string[]
  /** The graph's weights and the memory for them; if absent, onnxruntime loads them itself and they cannot be unloaded. */
  readonly offload?: { readonly weights: WeightsFile; readonly memory: () => DeviceMemory } | undefined
}

/** Opens an ONNX file, off the event loop. Throws `SessionError`. */
export async function openNativeSession(file: string, settings: NativeSettings): Promise<Session> {
  return failingWith(`cannot open ${file}`, async () => {
    const api = loadOrtApi()
    // The CUDA provider logs to it as it is loaded.
    const environment = environmentOf(api)
    const options = api.make('CreateSessionOptions')
    let weights: DeviceWeights | undefined
    try {
      configure(api, options, settings)
      if (settings.cuda) shareArena(api)
      const place = memoryOf(api, settings.cuda ? 'Cuda' : 'Cpu')
      const { offload } = settings
      if (offload) weights = await reserveWeights(offload.weights, offload.memory(), api, place)
      await weights?.load()
      for (const { name, value } of weights?.initializers ?? []) api.call('AddInitializer', options, name, value)
      const out: [Pointer | null] = [null]
      await api.callAsync('CreateSession', environment, file, options, out)
      return new NativeSession(file, api, out[0]!, settings, weights)
    } catch (error) {
      await weights?.release()
      throw error
    } finally {
      api.release('SessionOptions', options)
    }
  })
}

function configure(
  api: OrtApi,
  options: Pointer,
  { entries, memoryPattern, threads, cuda, libraries }: NativeSettings,
) {
  api.call('SetSessionLogSeverityLevel', options, FATAL_ONLY)
  for (const [key, value] of Object.entries(entries)) api.call('AddSessionConfigEntry', options, key, value)
  api.call(memoryPattern ? 'EnableMemPattern' : 'DisableMemPattern', options)
  if (threads !== undefined) api.call('SetIntraOpNumThreads', options, threads)
  for (const library of libraries ?? []) api.call('RegisterCustomOpsLibrary_V2', options, library)
  if (!cuda) return
  const provider = api.make('CreateCUDAProviderOptions')
  try {
    const [keys, values] = [Object.keys(cuda), Object.values(cuda)]
    api.call('UpdateCUDAProviderOptions', provider, keys, values, keys.length)
    api.call('SessionOptionsAppendExecutionProvider_CUDA_V2', options, provider)
  } finally {
    api.release('CUDAProviderOptions', provider)
  }
}

class NativeSession implements Session {
  readonly #file: string
  readonly #api: OrtApi
  readonly #session: Pointer
  readonly #outputs: readonly string[]
  /** Where inputs come from and outputs go to, and where residents stay. */
  readonly #host: Pointer
  readonly #device: Pointer
  readonly #running = new Set<Promise<unknown>>()
  #released = false
  readonly weights: DeviceWeights | undefined

  constructor(
    file: string,
    api: OrtApi,
    session: Pointer,
    { cuda }: NativeSettings,
    weights: DeviceWeights | undefined,
  ) {
    this.#file = file
    this.#api = api
    this.#session = session
    this.#host = memoryOf(api, 'Cpu')
    this.#device = cuda ? memoryOf(api, 'Cuda') : this.#host
    this.#outputs = outputNames(api, session)
    this.weights = weights
  }

  run(inputs: Inputs, options: RunOptions & { only?: readonly string[] } = {}): Promise<Record<string, Tensor>> {
    const { only = this.#outputs } = options
    return this.#guarded(options.signal, async () => {
      // What nobody wants stays where it is computed, and goes.
      const places = this.#outputs.map((name) => (only.includes(name) ? this.#host : this.#device))
      const values = await this.#compute(inputs, places, options)
      try {
        const wanted = this.#outputs.flatMap((name, i) => (only.includes(name) ? [[name, values[i]!] as const] : []))
        return Object.fromEntries(wanted.map(([name, value]) => [name, read(this.#api, value)]))
      } finally {
        for (const value of values) this.#api.release('Value', value)
      }
    })
  }

  runOnDevice(inputs: Inputs, options: RunOptions = {}): Promise<Record<string, DeviceTensor>> {
    return this.#guarded(options.signal, async () => {
      const places = this.#outputs.map(() => this.#device)
      const values = await this.#compute(inputs, places, options)
      const residents = values.map((value) => new NativeTensor(this.#api, this.#device, value))
      return Object.fromEntries(this.#outputs.map((name, i) => [name, residents[i]!]))
    })
  }

  async release(): Promise<void> {
    if (this.#released) return
    this.#released = true
    await Promise.allSettled(this.#running)
    this.#api.release('Session', this.#session)
    await this.weights?.release()
  }

  /** A session lives until its last run has ended. A run that was aborted throws the signal's reason, whatever onnxruntime says. */
  async #guarded<T>(signal: AbortSignal | undefined, action: () => Promise<T>): Promise<T> {
    const run = failingWith(`${this.#file} failed`, async () => {
      if (this.#released) throw new Error('the session was released')
      await this.weights?.load()
      return action()
    })
    this.#running.add(run)
    try {
      return await run
    } catch (error) {
      throw signal?.aborted ? signal.reason : error
    } finally {
      this.#running.delete(run)
    }
  }

  /** Runs the graph and gives the outputs, each in its place, in their order. */
  async #compute(inputs: Inputs, places: readonly Pointer[], { signal }: RunOptions): Promise<Pointer[]> {
    signal?.throwIfAborted()
    const api = this.#api
    const binding = api.make('CreateIoBinding', this.#session)
    const options = api.make('CreateRunOptions')
    const made: Pointer[] = []
    const terminate = () => api.call('RunOptionsSetTerminate', options)
    try {
      for (const [name, tensor] of Object.entries(inputs)) {
        const value = 'data' in tensor ? write(api, tensor) : NativeTensor.valueOf(tensor)
        if ('data' in tensor) made.push(value)
        api.call('BindInput', binding, name, value)
      }
      for (const [i, name] of this.#outputs.entries()) api.call('BindOutputToDevice', binding, name, places[i]!)
      signal?.addEventListener('abort', terminate)
      await runOnThread({ session: this.#session, options, binding })
      return boundValues(api, binding)
    } finally {
      signal?.removeEventListener('abort', terminate)
      for (const value of made) api.release('Value', value)
      api.release('RunOptions', options)
      api.release('IoBinding', binding)
    }
  }
}

type Inputs = Record<string, Tensor | DeviceTensor>

/** An output on the device. Rows are views of it, and the memory is free once all of them are released. */
class NativeTensor implements DeviceTensor {
  readonly dims: readonly number[]
  readonly #api: OrtApi
  readonly #memory: Pointer
  readonly #value: Pointer
  readonly #rows = new Map<number, NativeTensor>()

  constructor(api: OrtApi, memory: Pointer, value: Pointer) {
    this.#api = api
    this.#memory = memory
    this.#value = value
    this.dims = shapeOf(api, value).dims
  }

  static valueOf(tensor: DeviceTensor): Pointer {
    if (tensor instanceof NativeTensor) return tensor.#value
    throw new Error('a resident tensor of another kind of session is given')
  }

  row(index: number): DeviceTensor {
    const found = this.#rows.get(index)
    if (found) return found
    const [count, ...dims] = this.dims
    if (!(index >= 0 && index < count!)) throw new RangeError(`row ${index} of ${count} is asked for`)
    const bytes = dims.reduce((n, dim) => n * dim, Float32Array.BYTES_PER_ELEMENT)
    const start = this.#api.make('GetTensorMutableData', this.#value) + BigInt(index * bytes)
    const shape = BigInt64Array.from(dims.map(BigInt))
    const view = this.#api.make(
      'CreateTensorWithDataAsOrtValue',
      this.#memory,
      start,
      bytes,
      shape,
      dims.length,
      FLOAT32,
    )
    const row = new NativeTensor(this.#api, this.#memory, view)
    this.#rows.set(index, row)
    return row
  }

  release(): void {
    for (const row of this.#rows.values()) row.release()
    this.#api.release('Value', this.#value)
  }
}

function outputNames(api: OrtApi, session: Pointer): string[] {
  const allocator = api.make('GetAllocatorWithDefaultOptions')
  return Array.from({ length: api.count('SessionGetOutputCount', session) }, (_, i) => {
    const text = api.make('SessionGetOutputName', session, i, allocator)
    const name = api.readString(text)
    api.call('AllocatorFree', allocator, text)
    return name
  })
}

/** A copy of a tensor in onnxruntime's memory. */
function write(api: OrtApi, { data, dims }: Tensor): Pointer {
  const count = dims.reduce((n, dim) => n * dim, 1)
  if (count !== data.length) throw new Error(`${data.length} values are given for the shape [${dims.join(', ')}]`)
  const type = data instanceof Float32Array ? FLOAT32 : data instanceof BigInt64Array ? INT64 : UINT8
  const shape = BigInt64Array.from(dims.map(BigInt))
  const value = api.make('CreateTensorAsOrtValue', api.make('GetAllocatorWithDefaultOptions'), shape, dims.length, type)
  if (count > 0) api.copy(api.make('GetTensorMutableData', value), data, data.byteLength)
  return value
}

function read(api: OrtApi, value: Pointer): Tensor {
  const { type, dims } = shapeOf(api, value)
  const count = dims.reduce((n, dim) => n * dim, 1)
  const data = arrayOf(type, count)
  if (count > 0) api.copy(data, api.make('GetTensorMutableData', value), data.byteLength)
  return { data, dims }
}

function arrayOf(type: number, count: number): Tensor['data'] {
  switch (type) {
    case FLOAT32:
      return new Float32Array(count)
    case INT64:
      return new BigInt64Array(count)
    case UINT8:
      return new Uint8Array(count)
    default:
      throw new Error('an output is neither float32 nor int64 nor uint8')
  }
}

function shapeOf(api: OrtApi, value: Pointer): { type: number; dims: number[] } {
  const info = api.make('GetTensorTypeAndShape', value)
  try {
    const type = api.count('GetTensorElementType', info)
    const dims = new BigInt64Array(api.count('GetDimensionsCount', info))
    if (dims.length > 0) api.call('GetDimensions', info, dims, dims.length)
    return { type, dims: Array.from(dims, Number) }
  } finally {
    api.release('TensorTypeAndShapeInfo', info)
  }
}

function boundValues(api: OrtApi, binding: Pointer): Pointer[] {
  const allocator = api.make('GetAllocatorWithDefaultOptions')
  const [list, count]: [[Pointer | null], [number]] = [[null], [0]]
  api.call('GetBoundOutputValues', binding, allocator, list, count)
  const values = api.readPointers(list[0]!, Number(count[0]))
  api.call('AllocatorFree', allocator, list[0])
  return values
}
