// Opens sessions of onnxruntime, through its Node binding on the CPU and the addon on CUDA. The binding computes on the calling thread, so
// one worker thread has all sessions of a process.
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import type { Target } from '../manifest.ts'
import { loadCuda, loadCudaForMapping } from './cuda.ts'
import type { WeightsFile } from './device-weights.ts'
import {
  type DeviceTensor,
  HostTensor,
  isOnHost,
  releaseAll,
  type Session,
  type Tensor,
  wrapErrors,
} from './session.ts'
import { openNativeSession, type SessionSettings } from './session-native.ts'
import { updateFile } from './update/in-file.ts'
import type { WeightUpdates } from './update/weight-update.ts'

export type SessionOptions = {
  target: Target
  /** By default the Node binding on the CPU and the addon on CUDA. */
  binding?: 'node' | 'native' | undefined
  /** The library of our operators, for graphs of target cuda-fp8 that use them. */
  kernels?: string | undefined
  /**
   * CPU only: widen FP8 weights to float32 once, on opening, instead of in every run. They take four times the memory while the session is
   * open. Runs are faster, most of all with few tokens: twelve linear layers of 1536 × 6144 on two cores took 39 ms instead of 313 ms for
   * 16 tokens, 543 instead of 820 ms for 256.
   */
  fold?: boolean | undefined
  /** The graph's weights, so that they can be updated and, on CUDA, offloaded. */
  weights?: WeightsFile | undefined
  /** Updates of the weights. On CUDA they can be replaced while the session is open. */
  updates?: WeightUpdates | undefined
  /** CUDA only: map the file of the weights for the first copy too, instead of reading it. */
  mapsWeights?: boolean | undefined
  /** CUDA only: options of onnxruntime's provider besides our own. */
  provider?: Record<string, string> | undefined
  /** CUDA only: repeat runs as CUDA graphs, for graphs whose operators all run on the GPU (gpu-fn/native/ort/captured-runs.h). */
  capture?: boolean | undefined
  /** Index of the GPU, 0 by default. Runs of native sessions of different devices are concurrent, even on the CPU. */
  device?: number | undefined
  /** CPU threads per run; one per core by default. */
  threads?: number | undefined
}

const ERRORS_ONLY = 3

/** Opens an ONNX file; weights beside it are mapped. Throws `SessionError`. */
export async function openSession(file: string, options: SessionOptions): Promise<Session> {
  const settings = options.target === 'cpu' ? createCpuSettings(options) : createCudaSettings(options)
  const binding = options.binding ?? (options.target === 'cpu' ? 'node' : 'native')
  if (binding === 'native') return openNativeSession(file, settings)
  const session = await wrapErrors(`cannot open ${file}`, async () =>
    ort.InferenceSession.create(file, { ...createNodeOptions(settings), ...(await loadUpdatedWeights(options)) }),
  )
  const runOnce: Session['run'] = async (inputs, { signal, only } = {}) => {
    signal?.throwIfAborted()
    return wrapErrors(`${file} failed`, () => run(session, inputs, only ?? session.outputNames))
  }
  const others = new Map<string, Promise<Session>>()
  return {
    run: runOnce,
    async runOnDevice(inputs, runOptions) {
      const results = Object.entries(await runOnce(inputs, { signal: runOptions?.signal }))
      return Object.fromEntries(results.map(([name, tensor]) => [name, new HostTensor(tensor)]))
    },
    another(other) {
      const opened = others.get(other) ?? openSession(other, options)
      others.set(other, opened)
      opened.catch(() => others.delete(other))
      return opened
    },
    async release() {
      await releaseAll(others)
      await session.release()
    },
  }
}

/** The updated content of the graph's weights file, which onnxruntime copies. */
async function loadUpdatedWeights({ weights, updates }: SessionOptions): Promise<ort.InferenceSession.SessionOptions> {
  if (!weights || !updates) return {}
  const data = await updateFile(weights, updates, (graph) => openSession(graph, { target: 'cpu' }))
  return { externalData: [{ path: path.basename(weights.file), data }] }
}

function createCpuSettings({ fold, threads, device }: SessionOptions): SessionSettings {
  return {
    threads,
    device,
    // For a graph that widens its weights in every run, memory patterns double the allocation.
    memoryPattern: fold === true,
    entries: {
      // Without its rules for quantized graphs, onnxruntime folds DequantizeLinear of a constant.
      'session.disable_quant_qdq': fold ? '1' : '0',
      // Spinning threads resume quickly. Each graph has its own threads, which must stop spinning after a run to free the cores.
      'session.intra_op.allow_spinning': '1',
      'session.force_spinning_stop': '1',
    },
  }
}

function createCudaSettings({
  kernels,
  provider,
  weights,
  updates,
  device,
  mapsWeights,
  capture,
}: SessionOptions): SessionSettings {
  return {
    ...{ device, capture },
    // In the second run of a shape a memory pattern allocates a block of the peak's size, in addition to the memory of the first run.
    memoryPattern: false,
    entries: { 'session.use_device_allocator_for_initializers': '1' },
    cuda: { arena_extend_strategy: 'kSameAsRequested', ...provider },
    ...(weights && { offload: { weights, updates, memory: mapsWeights ? loadCudaForMapping : loadCuda } }),
    libraries: kernels === undefined ? [] : [kernels],
  }
}

/** The Node binding does not support options of the CUDA provider. */
function createNodeOptions({
  threads,
  memoryPattern,
  entries,
  cuda,
}: SessionSettings): ort.InferenceSession.SessionOptions {
  return {
    executionProviders: [cuda ? 'cuda' : 'cpu'],
    logSeverityLevel: ERRORS_ONLY,
    ...(threads !== undefined && { intraOpNumThreads: threads }),
    enableMemPattern: memoryPattern,
    extra: entries,
  }
}

async function run(
  session: ort.InferenceSession,
  inputs: Record<string, Tensor | DeviceTensor>,
  outputNames: readonly string[],
): Promise<Record<string, Tensor>> {
  const feeds: Record<string, ort.Tensor> = {}
  for (const [name, tensor] of Object.entries(inputs)) {
    // The binding ignores unknown inputs.
    if (!session.inputNames.includes(name)) throw new Error(`the graph has no input ${name}`)
    if (!isOnHost(tensor)) throw new Error(`${name} is a device tensor of another kind of session`)
    const { data, dims } = tensor
    feeds[name] = toOrt(data, dims)
  }
  const outputs: Record<string, Tensor> = {}
  for (const [name, { data, dims }] of Object.entries(await session.run(feeds, outputNames))) {
    if (!(data instanceof Float32Array || data instanceof BigInt64Array || data instanceof Uint8Array)) {
      throw new Error(`output ${name} is neither float32 nor int64 nor uint8`)
    }
    outputs[name] = { data, dims }
  }
  return outputs
}

function toOrt(data: Tensor['data'], dims: readonly number[]): ort.Tensor {
  if (data instanceof Float32Array) return new ort.Tensor('float32', data, dims)
  return data instanceof BigInt64Array ? new ort.Tensor('int64', data, dims) : new ort.Tensor('uint8', data, dims)
}
