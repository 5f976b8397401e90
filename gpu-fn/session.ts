// The one place that knows onnxruntime. `run` computes on the calling thread: keep all sessions of a process on one worker thread.
import * as ort from 'onnxruntime-node'
import type { Manifest } from './compile/manifest.ts'

export type Tensor = { data: Float32Array | BigInt64Array; dims: readonly number[] }

export interface Session {
  /** Runs the graph once. Throws `SessionError`, also for an input that is missing, unknown or of the wrong shape. */
  run(inputs: Record<string, Tensor>): Promise<Record<string, Tensor>>
  release(): Promise<void>
}

export type SessionOptions = {
  target: Manifest['target']
  /**
   * CPU only: widen FP8 weights to float32 once, as the graph is opened, and not in every run. They then hold four times the memory
   * for as long as the session lives, and runs are faster, the more so the fewer tokens they have: twelve linear layers of
   * 1536 × 6144 on two cores took 39 ms folded and 313 ms not for 16 tokens, 543 and 820 ms for 256.
   */
  fold?: boolean
  /** CPU threads of one run; as many as there are cores unless given. */
  threads?: number
}

/** onnxruntime refused a graph or a run; the message names the file and says why. */
export class SessionError extends Error {
  override name = 'SessionError' as const
}

const ERRORS_ONLY = 3

/** Opens an ONNX file; weights beside it are mapped, not read. Throws `SessionError`. */
export async function openSession(file: string, options: SessionOptions): Promise<Session> {
  const session = await failingWith(`cannot open ${file}`, () =>
    ort.InferenceSession.create(file, options.target === 'cuda' ? cudaOptions() : cpuOptions(options)),
  )
  return {
    run: (inputs) => failingWith(`${file} failed`, () => run(session, inputs)),
    release: () => session.release(),
  }
}

function cpuOptions({ fold, threads }: SessionOptions): ort.InferenceSession.SessionOptions {
  return {
    executionProviders: ['cpu'],
    logSeverityLevel: ERRORS_ONLY,
    ...(threads !== undefined && { intraOpNumThreads: threads }),
    // The pattern of a graph that widens its weights in every run doubles what it allocates.
    enableMemPattern: fold === true,
    extra: {
      session: {
        // Without its rules for quantised graphs, onnxruntime takes DequantizeLinear of a constant for a constant.
        disable_quant_qdq: fold ? '1' : '0',
        // Threads that wait by spinning are soon back at work. Each graph has threads of its own: those of one whose run is over must
        // not take the cores from another's.
        intra_op: { allow_spinning: '1' },
        force_spinning_stop: '1',
      },
    },
  }
}

function cudaOptions(): ort.InferenceSession.SessionOptions {
  return {
    executionProviders: ['cuda'],
    logSeverityLevel: ERRORS_ONLY,
    // A pattern asks for one block of the peak's size in the second run of a shape, on top of what the first run took.
    enableMemPattern: false,
    // Weights are allocated to the byte; the arena would round each of its extensions up to a power of two.
    extra: { session: { use_device_allocator_for_initializers: '1' } },
  }
}

async function run(session: ort.InferenceSession, inputs: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const feeds: Record<string, ort.Tensor> = {}
  for (const [name, { data, dims }] of Object.entries(inputs)) {
    feeds[name] =
      data instanceof Float32Array ? new ort.Tensor('float32', data, dims) : new ort.Tensor('int64', data, dims)
  }
  const outputs: Record<string, Tensor> = {}
  for (const [name, { data, dims }] of Object.entries(await session.run(feeds))) {
    if (!(data instanceof Float32Array || data instanceof BigInt64Array)) {
      throw new Error(`output ${name} is neither float32 nor int64`)
    }
    outputs[name] = { data, dims }
  }
  return outputs
}

async function failingWith<T>(what: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (cause) {
    throw new SessionError(`${what}: ${cause instanceof Error ? cause.message : cause}`, { cause })
  }
}
