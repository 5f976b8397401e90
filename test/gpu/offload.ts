// Networks that take turns in the same memory of a GPU must compute with their own weights. The option `--settle 0` reproduces the wrong
// results for which device-weights.ts waits (SETTLE_MS); `--events` orders copies and runs by events between their streams as well.
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { Graph, type Value } from '../../gpu-fn/compile/graph/graph.ts'
import { encodeModel } from '../../gpu-fn/compile/write/onnx.ts'
import { countElements, tensorBytes } from '../../gpu-fn/dtype.ts'
import type { StoredTensor } from '../../gpu-fn/manifest.ts'
import { loadCuda } from '../../gpu-fn/runtime/cuda.ts'
import type { DeviceMemory } from '../../gpu-fn/runtime/device-memory.ts'
import { loadNative, type NativeStream } from '../../gpu-fn/runtime/native.ts'
import type { Session, Tensor } from '../../gpu-fn/runtime/session.ts'
import { openNativeSession, type SessionSettings } from '../../gpu-fn/runtime/session-native.ts'

/** Layers of equal weights, in 0.8 and 0.5 GB: products as in the transformer, convolutions as in the VAE decoder. */
type Layers = { readonly op: string; readonly count: number; readonly weight: number[]; readonly input: number[] }
const NETWORKS: Record<string, Layers> = {
  products: { op: 'MatMul', count: 12, weight: [4096, 4096], input: [64, 4096] },
  convolutions: { op: 'Conv', count: 48, weight: [512, 512, 3, 3], input: [1, 512, 64, 64] },
}

export type OffloadOptions = {
  rounds: number
  /** Milliseconds between a mapping and a run; by default those of device-weights.ts. */
  settle?: number | undefined
  events?: boolean | undefined
}

type Network = { readonly session: Session; readonly x: Tensor; readonly expected: Tensor }

/** Prints the number of wrong results. Throws if there are any. */
export async function checkOffloading({ rounds, settle, events = false }: OffloadOptions): Promise<void> {
  const scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-offload-'))
  const { memory, stream } = events ? orderByEvents(loadCuda(0)) : { memory: loadCuda(0), stream: undefined }
  const networks: Network[] = []
  try {
    for (const [name, layers] of Object.entries(NETWORKS)) {
      await writeNetwork(scratch, name, layers)
      const session = await openNetwork(scratch, name, { memory: () => memory, settleMs: settle }, stream)
      const x = tensorOf(layers.input)
      networks.push({ session, x, expected: (await session.run({ x })).y! })
      session.weights!.unload()
    }
    let wrong = 0
    for (let round = 0; round < rounds; round++)
      for (const { session, x, expected } of networks) {
        const { data } = (await session.run({ x })).y!
        if (data.some((value, i) => !Object.is(value, expected.data[i]))) wrong++
        session.weights!.unload()
      }
    const how = `${settle ?? 'default'} ms after the mapping${events ? ', ordered by events' : ''}`
    console.log(`${wrong === 0 ? ' ' : '✗'} weights in turns, ${how}: ${wrong} of ${2 * rounds} results are wrong`)
    if (wrong > 0) throw new Error(`${wrong} of ${2 * rounds} results with loaded weights are wrong`)
  } finally {
    for (const { session } of networks) await session.release()
    await fs.rm(scratch, { recursive: true })
  }
}

const tensorOf = (dims: readonly number[]): Tensor => ({
  data: Float32Array.from({ length: countElements(dims) }, (_, i) => Math.sin(i)),
  dims,
})

/** Memory of the GPU with copies on a stream of its own, which the compute stream waits for on the device. */
function orderByEvents(memory: DeviceMemory): { memory: DeviceMemory; stream: NativeStream } {
  const gpu = loadNative().Gpu.open(0)
  const [copies, stream, copied] = [gpu.createStream(), gpu.createStream(), gpu.createEvent()]
  const copyFromHost: DeviceMemory['copyFromHost'] = async (ranges) => {
    await copies.copyFromHost(ranges)
    copied.record(copies)
    stream.wait(copied)
  }
  return { memory: { ...memory, copyFromHost }, stream }
}

const layoutOf = ({ count, weight }: Layers): StoredTensor[] =>
  Array.from({ length: count }, (_, i) => {
    return { name: `layer.${i}`, dtype: 'float32', shape: weight, offset: i * tensorBytes('float32', weight) }
  })

/** Layers one after the other, with weights that differ between the layers and the networks at every address. */
async function writeNetwork(directory: string, name: string, layers: Layers): Promise<void> {
  const { op, weight, input } = layers
  const graph = new Graph(name)
  const attributes = op === 'Conv' ? { pads: [1, 1, 1, 1] } : {}
  let y: Value = graph.input('x', 'float32', input)
  for (const { name: layer } of layoutOf(layers)) {
    const values = graph.weight(layer, 'float32', weight, null)
    ;[y] = graph.node(op, [y, values], [{ dtype: 'float32', shape: input }], attributes) as [Value]
  }
  graph.output('y', y)
  const location = `${name}.weights`
  const model = encodeModel(graph, { location, layout: layoutOf(layers) }, '0')
  await fs.writeFile(path.join(directory, `${name}.onnx`), model)
  const bytes = tensorBytes('float32', weight)
  const values = new Uint8Array(randomValues(layers).buffer)
  await using file = await fs.open(path.join(directory, location), 'w')
  for (let i = 0; i < layers.count; i++) await file.write(values, i * SHIFT, bytes)
}

/** Bytes between the first values of successive layers in a sequence of random values. */
const SHIFT = 16384

/** Uniform values whose products keep their magnitude over the layers. */
function randomValues({ count, weight }: Layers): Float32Array {
  const scale = Math.sqrt((12 * weight[0]!) / countElements(weight)) / 2 ** 32
  const values = new Float32Array(countElements(weight) + (count * SHIFT) / 4)
  let state = count
  for (let i = 0; i < values.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    values[i] = (state - 2 ** 31) * scale
  }
  return values
}

type Offload = Omit<NonNullable<SessionSettings['offload']>, 'weights'>

function openNetwork(directory: string, name: string, offload: Offload, stream: NativeStream | undefined) {
  const weights = { file: path.join(directory, `${name}.weights`), tensors: layoutOf(NETWORKS[name]!) }
  return openNativeSession(path.join(directory, `${name}.onnx`), {
    entries: { 'session.use_device_allocator_for_initializers': '1', 'session.use_env_allocators': '1' },
    memoryPattern: false,
    cuda: { arena_extend_strategy: 'kSameAsRequested' },
    stream,
    offload: { weights, ...offload },
  })
}
