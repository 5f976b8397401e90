// Sessions of the addon. In addition to the Node binding's features, it supports CUDA options, custom operators, device tensors,
// non-blocking runs and cancellation. Its sessions on the CPU are used to test it against the binding.
import path from 'node:path'
import { loadCuda } from './cuda.ts'
import type { DeviceMemory } from './device-memory.ts'
import { type DeviceWeights, reserveWeights, type WeightsFile } from './device-weights.ts'
import { loadNative, type NativeRun, type NativeSession, type NativeSettings, type NativeTensor } from './native.ts'
import { copyToNative, NativeDeviceTensor, readTensor, type Site } from './native-tensor.ts'
import {
  type DeviceTensor,
  isOnHost,
  type RunOptions,
  releaseAll,
  type Session,
  type Tensor,
  wrapErrors,
} from './session.ts'
import type { UpdateGraphs, UpdateSession } from './update/on-device.ts'
import type { WeightUpdates } from './update/weight-update.ts'

/** Settings of a session and of its weights. */
export type SessionSettings = Omit<NativeSettings, 'initializers'> & {
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
export async function openNativeSession(file: string, settings: SessionSettings): Promise<Session & UpdateSession> {
  return wrapErrors(`cannot open ${file}`, async () => {
    const weights = await openWeights(settings)
    try {
      return await createSession(file, settings, weights, true)
    } catch (error) {
      await weights?.release()
      throw error
    }
  })
}

const placeOf = ({ cuda, device = 0 }: SessionSettings) => (cuda ? device : null)

async function openWeights(settings: SessionSettings): Promise<DeviceWeights | undefined> {
  const { offload, device = 0 } = settings
  if (!offload) return undefined
  const where = { device: offload.memory(device), place: placeOf(settings) }
  const weights = await reserveWeights(offload.weights, where, updateGraphs(settings))
  await weights.update(offload.updates)
  return weights
}

/** `ownsWeights`: the session releases the weights at its end. */
async function createSession(
  file: string,
  settings: SessionSettings,
  weights: DeviceWeights | undefined,
  ownsWeights: boolean,
): Promise<OpenSession> {
  await weights?.load()
  const { offload: _, ...own } = settings
  const session = await loadNative().Session.open(file, { ...own, initializers: weights?.initializers })
  return new OpenSession(file, session, settings, weights, ownsWeights)
}

const openUpdateGraphs = new Map<string, Promise<UpdateSession>>()

/** Opens graphs of weight updates on the device of a session. They stay open, because opening one takes longer than all its runs. */
const updateGraphs = ({ entries, cuda, device = 0, libraries }: SessionSettings): UpdateGraphs => ({
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

type Inputs = Record<string, Tensor | DeviceTensor>

class OpenSession implements Session, UpdateSession {
  readonly #file: string
  readonly #session: NativeSession
  readonly #outputs: readonly string[]
  readonly #site: Site
  readonly #running = new Set<Promise<unknown>>()
  readonly #settings: SessionSettings
  readonly #ownsWeights: boolean
  readonly #others = new Map<string, Promise<Session>>()
  #released = false
  readonly weights: DeviceWeights | undefined

  constructor(
    file: string,
    session: NativeSession,
    settings: SessionSettings,
    weights: DeviceWeights | undefined,
    ownsWeights: boolean,
  ) {
    this.#file = file
    this.#session = session
    this.#outputs = session.outputs
    this.#settings = settings
    this.#ownsWeights = ownsWeights
    const { cuda, device = 0, offload } = settings
    const memory = offload?.memory ?? (cuda ? loadCuda : undefined)
    this.#site = { place: placeOf(settings), memory: memory && (() => memory(device)) }
    this.weights = weights
  }

  run(inputs: Inputs, options: RunOptions & { only?: readonly string[] } = {}): Promise<Record<string, Tensor>> {
    const { only = this.#outputs } = options
    return this.#track(options.signal, async () => {
      // Unused outputs are not copied to the host.
      const outputs = this.#outputs.map((name) => [name, only.includes(name) ? 'host' : 'device'] as const)
      const results = await this.#compute(inputs, Object.fromEntries(outputs), options)
      try {
        const requested = Object.entries(results).filter(([name]) => only.includes(name))
        return Object.fromEntries(requested.map(([name, tensor]) => [name, readTensor(tensor)]))
      } finally {
        for (const tensor of Object.values(results)) tensor.release()
      }
    })
  }

  runOnDevice(inputs: Inputs, options: RunOptions = {}): Promise<Record<string, DeviceTensor>> {
    return this.#track(options.signal, async () => {
      const outputs = this.#outputs.map((name) => [name, 'device'] as const)
      const results = Object.entries(await this.#compute(inputs, Object.fromEntries(outputs), options))
      return Object.fromEntries(results.map(([name, tensor]) => [name, new NativeDeviceTensor(this.#site, tensor)]))
    })
  }

  runInto(inputs: Record<string, NativeTensor>, outputs: Record<string, NativeTensor>): Promise<void> {
    return this.#track(undefined, async () => {
      await this.#session.prepare(inputs, outputs).start()
    })
  }

  allocate(bytes: number): ReturnType<UpdateSession['allocate']> {
    return this.#session.allocate(bytes)
  }

  describeCaptures(): Promise<string[]> {
    return this.#session.describeCaptures()
  }

  another(file: string): Promise<Session> {
    const open = async () => {
      this.#assertOpen()
      // Each captured session has a memory arena of its own, which the memory plan counts for one session only.
      return createSession(file, { ...this.#settings, capture: false }, this.weights, false)
    }
    const opened = this.#others.get(file) ?? wrapErrors(`cannot open ${file}`, open)
    this.#others.set(file, opened)
    opened.catch(() => this.#others.delete(file))
    return opened
  }

  async release(): Promise<void> {
    if (this.#released) return
    this.#released = true
    await releaseAll(this.#others)
    await Promise.allSettled(this.#running)
    this.#session.release()
    if (this.#ownsWeights) await this.weights?.release()
  }

  /** The memory of a released session's weights is no longer its own. */
  #assertOpen(): void {
    if (this.#released) throw new Error('the session was released')
  }

  /** Tracks the run, so that `release` waits for it. An aborted run throws the signal's reason instead of onnxruntime's error. */
  async #track<T>(signal: AbortSignal | undefined, action: () => Promise<T>): Promise<T> {
    const run = wrapErrors(`${this.#file} failed`, async () => {
      this.#assertOpen()
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

  /** Runs the graph. Host inputs are copied to native memory. */
  async #compute(inputs: Inputs, outputs: Record<string, 'host' | 'device'>, { signal }: RunOptions) {
    signal?.throwIfAborted()
    const copies: NativeTensor[] = []
    const copy = (tensor: Tensor) => {
      const native = copyToNative(tensor)
      copies.push(native)
      return native
    }
    try {
      const tensors = Object.entries(inputs).map(([name, tensor]) => {
        return [name, isOnHost(tensor) ? copy(tensor) : NativeDeviceTensor.nativeOf(tensor)] as const
      })
      return await finish(this.#session.prepare(Object.fromEntries(tensors), outputs), signal)
    } finally {
      for (const tensor of copies) tensor.release()
    }
  }
}

/** Starts a run, and cancels it when the signal is aborted. */
async function finish(run: NativeRun, signal?: AbortSignal): Promise<Record<string, NativeTensor>> {
  const cancel = () => run.cancel()
  signal?.addEventListener('abort', cancel)
  try {
    return await run.start()
  } finally {
    signal?.removeEventListener('abort', cancel)
  }
}
