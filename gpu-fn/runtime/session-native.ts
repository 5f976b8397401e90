// Sessions on onnxruntime's C API, for features that the Node binding lacks: CUDA's options, custom operators, tensors on the device, and
// runs that do not block the event loop and can be canceled. It supports the CPU as well, where tests compare it with the binding.

import path from 'node:path'
import { loadCuda } from './cuda.ts'
import { selectGpu } from './cuda-runtime.ts'
import type { DeviceMemory } from './device-memory.ts'
import { type DeviceWeights, reserveWeights, type WeightsFile } from './device-weights.ts'
import { copyFromNative, copyToNative, NativeTensor, type Place } from './native-tensor.ts'
import { loadOrtApi, type OrtApi, type Pointer } from './ort-api.ts'
import { environmentOf, FATAL_ONLY, memoryOf, shareArena } from './ort-environment.ts'
import { runOnThread } from './run-thread.ts'
import {
  type DeviceTensor,
  failingWith,
  isOnHost,
  type RunOptions,
  releaseAll,
  type Session,
  type Tensor,
} from './session.ts'
import type { UpdateGraphs, UpdateSession } from './update/on-device.ts'
import type { WeightUpdates } from './update/weight-update.ts'

/** Settings of onnxruntime, by its names. */
export type NativeSettings = {
  readonly entries: Record<string, string>
  readonly memoryPattern: boolean
  readonly threads?: number | undefined
  /** Options of the CUDA execution provider; without them the session runs on the CPU. */
  readonly cuda?: Record<string, string>
  /** Index of the GPU, 0 by default. Runs of different devices are concurrent, also on the CPU. */
  readonly device?: number | undefined
  /** Libraries of operators. */
  readonly libraries?: readonly string[]
  /** The graph's weights and the memory for them; if absent, onnxruntime loads them itself and they cannot be unloaded. */
  readonly offload?:
    | {
        readonly weights: WeightsFile
        readonly memory: (device: number) => DeviceMemory
        /** Updates of the weights when the session opens. */
        readonly updates?: WeightUpdates | undefined
      }
    | undefined
}

/** Opens an ONNX file, off the event loop. Throws `SessionError`. */
export async function openNativeSession(file: string, settings: NativeSettings): Promise<Session & UpdateSession> {
  return failingWith(`cannot open ${file}`, async () => {
    let weights: DeviceWeights | undefined
    const reserve = async (api: OrtApi) => {
      const { offload, device = 0 } = settings
      const place = settings.cuda ? memoryOf(api, 'Cuda', device) : memoryOf(api, 'Cpu')
      if (offload)
        weights = await reserveWeights(offload.weights, offload.memory(device), api, place, updateGraphs(settings))
      await weights?.update(offload?.updates)
      return weights
    }
    try {
      return await createSession(file, settings, reserve, true)
    } catch (error) {
      await weights?.release()
      throw error
    }
  })
}

/** `ownsWeights`: the session releases the weights at its end. */
async function createSession(
  file: string,
  settings: NativeSettings,
  openWeights: (api: OrtApi) => Promise<DeviceWeights | undefined>,
  ownsWeights: boolean,
): Promise<NativeSession> {
  const api = loadOrtApi()
  // The CUDA provider logs to the environment when it is loaded.
  const environment = environmentOf(api)
  const options = api.make('CreateSessionOptions')
  try {
    configure(api, options, settings)
    if (settings.cuda) shareArena(api, settings.device ?? 0)
    const weights = await openWeights(api)
    await weights?.load()
    for (const { name, value } of weights?.initializers ?? []) api.call('AddInitializer', options, name, value)
    const out: [Pointer | null] = [null]
    await api.callAsync('CreateSession', environment, file, options, out)
    return new NativeSession(file, api, out[0]!, settings, weights, ownsWeights)
  } finally {
    api.release('SessionOptions', options)
  }
}

const openUpdateGraphs = new Map<string, Promise<UpdateSession>>()

/** Opens graphs of weight updates on the device of a session. They stay open, because opening one takes longer than all its runs. */
const updateGraphs = ({ entries, cuda, device = 0, libraries }: NativeSettings): UpdateGraphs => ({
  hasKernels: (libraries?.length ?? 0) > 0,
  async open(file) {
    // The name of a graph's file identifies it, because all adapters of one format have the same graphs.
    const key = `${cuda ? `cuda ${device}` : 'cpu'} ${path.basename(file)}`
    const own = { entries, device, memoryPattern: false, ...(libraries && { libraries }) }
    const settings = { ...own, ...(cuda && { cuda: { ...cuda, use_tf32: '0' } }) }
    const found = openUpdateGraphs.get(key) ?? openNativeSession(file, settings)
    openUpdateGraphs.set(key, found)
    found.catch(() => openUpdateGraphs.delete(key))
    return found
  },
})

function configure(
  api: OrtApi,
  options: Pointer,
  { entries, memoryPattern, threads, cuda, device = 0, libraries }: NativeSettings,
) {
  api.call('SetSessionLogSeverityLevel', options, FATAL_ONLY)
  for (const [key, value] of Object.entries(entries)) api.call('AddSessionConfigEntry', options, key, value)
  api.call(memoryPattern ? 'EnableMemPattern' : 'DisableMemPattern', options)
  if (threads !== undefined) api.call('SetIntraOpNumThreads', options, threads)
  for (const library of libraries ?? []) api.call('RegisterCustomOpsLibrary_V2', options, library)
  if (!cuda) return
  const provider = api.make('CreateCUDAProviderOptions')
  try {
    const own = { ...cuda, device_id: String(device) }
    const [keys, values] = [Object.keys(own), Object.values(own)]
    api.call('UpdateCUDAProviderOptions', provider, keys, values, keys.length)
    api.call('SessionOptionsAppendExecutionProvider_CUDA_V2', options, provider)
  } finally {
    api.release('CUDAProviderOptions', provider)
  }
}

class NativeSession implements Session, UpdateSession {
  readonly #file: string
  readonly #api: OrtApi
  readonly #session: Pointer
  readonly #outputs: readonly string[]
  /** Memory of inputs and outputs, and of device tensors. */
  readonly #host: Pointer
  readonly #place: Place
  readonly #device: number
  readonly #onGpu: boolean
  readonly #running = new Set<Promise<unknown>>()
  readonly #settings: NativeSettings
  readonly #ownsWeights: boolean
  readonly #others = new Map<string, Promise<Session>>()
  #released = false
  readonly weights: DeviceWeights | undefined

  constructor(
    file: string,
    api: OrtApi,
    session: Pointer,
    settings: NativeSettings,
    weights: DeviceWeights | undefined,
    ownsWeights: boolean,
  ) {
    this.#file = file
    this.#api = api
    this.#session = session
    this.#host = memoryOf(api, 'Cpu')
    const { cuda, device = 0, offload } = settings
    this.#settings = settings
    this.#ownsWeights = ownsWeights
    this.#onGpu = cuda !== undefined
    this.#device = device
    const memory = offload?.memory ?? (cuda ? loadCuda : undefined)
    this.#place = {
      info: cuda ? memoryOf(api, 'Cuda', device) : this.#host,
      memory: memory && (() => memory(device)),
    }
    this.#outputs = outputNames(api, session)
    this.weights = weights
  }

  run(inputs: Inputs, options: RunOptions & { only?: readonly string[] } = {}): Promise<Record<string, Tensor>> {
    const { only = this.#outputs } = options
    return this.#track(options.signal, async () => {
      // Unused outputs are not copied to the host.
      const places = this.#outputs.map((name) => (only.includes(name) ? this.#host : this.#place.info))
      const values = await this.#compute(inputs, places, options)
      try {
        const requested = this.#outputs.flatMap((name, i) => (only.includes(name) ? [[name, values[i]!] as const] : []))
        return Object.fromEntries(requested.map(([name, value]) => [name, copyFromNative(this.#api, value)]))
      } finally {
        for (const value of values) this.#api.release('Value', value)
      }
    })
  }

  runOnDevice(inputs: Inputs, options: RunOptions = {}): Promise<Record<string, DeviceTensor>> {
    return this.#track(options.signal, async () => {
      const places = this.#outputs.map(() => this.#place.info)
      const values = await this.#compute(inputs, places, options)
      const tensors = values.map((value) => new NativeTensor(this.#api, this.#place, value))
      return Object.fromEntries(this.#outputs.map((name, i) => [name, tensors[i]!]))
    })
  }

  runInto(inputs: Record<string, Pointer>, outputs: Record<string, Pointer>): Promise<void> {
    const bind = (binding: Pointer) => {
      for (const [name, value] of Object.entries(inputs)) this.#api.call('BindInput', binding, name, value)
      for (const [name, value] of Object.entries(outputs)) this.#api.call('BindOutput', binding, name, value)
    }
    return this.#track(undefined, () => this.#runBound(bind, () => {}))
  }

  allocate(bytes: number): ReturnType<UpdateSession['allocate']> {
    const api = this.#api
    this.#selectDevice()
    const allocator = api.make('CreateAllocator', this.#session, this.#place.info)
    try {
      const address = api.make('AllocatorAlloc', allocator, bytes)
      const free = () => {
        this.#selectDevice()
        api.call('AllocatorFree', allocator, address)
        api.release('Allocator', allocator)
      }
      return { address, free }
    } catch (error) {
      api.release('Allocator', allocator)
      throw error
    }
  }

  another(file: string): Promise<Session> {
    const open = async () => createSession(file, this.#settings, async () => this.weights, false)
    const opened = this.#others.get(file) ?? failingWith(`cannot open ${file}`, open)
    this.#others.set(file, opened)
    opened.catch(() => this.#others.delete(file))
    return opened
  }

  async release(): Promise<void> {
    if (this.#released) return
    this.#released = true
    await releaseAll(this.#others)
    await Promise.allSettled(this.#running)
    this.#selectDevice()
    this.#api.release('Session', this.#session)
    if (this.#ownsWeights) await this.weights?.release()
  }

  /** Tracks the run, so that `release` waits for it. An aborted run throws the signal's reason instead of onnxruntime's error. */
  async #track<T>(signal: AbortSignal | undefined, action: () => Promise<T>): Promise<T> {
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

  /** CUDA allocates and copies on the calling thread's current GPU. */
  #selectDevice(): void {
    if (this.#onGpu) selectGpu(this.#device)
  }

  /** Runs the graph and returns its outputs in order, each in its memory of `places`. */
  async #compute(inputs: Inputs, places: readonly Pointer[], { signal }: RunOptions): Promise<Pointer[]> {
    const api = this.#api
    const made: Pointer[] = []
    const bind = (binding: Pointer) => {
      for (const [name, tensor] of Object.entries(inputs)) {
        const value = isOnHost(tensor) ? copyToNative(api, tensor) : NativeTensor.valueOf(tensor)
        if (isOnHost(tensor)) made.push(value)
        api.call('BindInput', binding, name, value)
      }
      for (const [i, name] of this.#outputs.entries()) api.call('BindOutputToDevice', binding, name, places[i]!)
    }
    try {
      return await this.#runBound(bind, (binding) => boundValues(api, binding), signal)
    } finally {
      for (const value of made) api.release('Value', value)
    }
  }

  /** Runs the graph with the inputs and outputs bound by `bind`. */
  async #runBound<T>(bind: (binding: Pointer) => void, resultOf: (binding: Pointer) => T, signal?: AbortSignal) {
    signal?.throwIfAborted()
    const api = this.#api
    this.#selectDevice()
    const binding = api.make('CreateIoBinding', this.#session)
    const options = api.make('CreateRunOptions')
    const terminate = () => api.call('RunOptionsSetTerminate', options)
    try {
      bind(binding)
      signal?.addEventListener('abort', terminate)
      await runOnThread({ session: this.#session, options, binding }, this.#device)
      return resultOf(binding)
    } finally {
      signal?.removeEventListener('abort', terminate)
      api.release('RunOptions', options)
      api.release('IoBinding', binding)
    }
  }
}

type Inputs = Record<string, Tensor | DeviceTensor>

function outputNames(api: OrtApi, session: Pointer): string[] {
  const allocator = api.make('GetAllocatorWithDefaultOptions')
  return Array.from({ length: api.count('SessionGetOutputCount', session) }, (_, i) => {
    const text = api.make('SessionGetOutputName', session, i, allocator)
    const name = api.readString(text)
    api.call('AllocatorFree', allocator, text)
    return name
  })
}

function boundValues(api: OrtApi, binding: Pointer): Pointer[] {
  const allocator = api.make('GetAllocatorWithDefaultOptions')
  const [list, count]: [[Pointer | null], [number]] = [[null], [0]]
  api.call('GetBoundOutputValues', binding, allocator, list, count)
  const values = api.readPointers(list[0]!, Number(count[0]))
  api.call('AllocatorFree', allocator, list[0])
  return values
}
