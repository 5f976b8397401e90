import { cp, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import protobuf from 'protobufjs'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { computeTensorBytes, ONNX_DATA_TYPES } from '../../../gpu-fn/dtype.ts'
import type { StoredTensor } from '../../../gpu-fn/manifest.ts'
import { loadNative } from '../../../gpu-fn/runtime/native.ts'
import { NativeDeviceTensor, readTensor } from '../../../gpu-fn/runtime/native-tensor.ts'
import { openSession } from '../../../gpu-fn/runtime/open-session.ts'
import { concatenate, type Session, type Tensor } from '../../../gpu-fn/runtime/session.ts'
import { openNativeSession } from '../../../gpu-fn/runtime/session-native.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { createHostMemory } from '../../support/gpu/host-memory.ts'
import { hasAddon } from '../../support/native/addon.ts'

const PROTO = path.join(import.meta.dirname, '../../../gpu-fn/compile/write/onnx.proto')
const ModelProto = protobuf.loadSync(PROTO).lookupType('onnx.ModelProto')
type DecodedTensor = {
  graph: {
    initializer: {
      name: string
      dataType: number
      dims: unknown[]
      dataLocation: number
      externalData: { key: string; value: string }[]
    }[]
  }
}

const INPUTS = { input_ids: { data: BigInt64Array.from({ length: 77 }, (_, i) => BigInt(i * 7)), dims: [1, 77] } }

let directory: string
let tensors: readonly StoredTensor[]
let expected: Awaited<ReturnType<Session['run']>>
beforeAll(async () => {
  directory = await compileTiny({ tier: 'fp8' })
  tensors = (await openPackage(directory)).manifest.weights['clip_l.weights']!
  const session = await openSession(path.join(directory, 'clip_l.onnx'), { target: 'cpu' })
  expected = await session.run(INPUTS)
  await session.release()
})

const open = (file: string, memory: ReturnType<typeof createHostMemory>['memory']) => {
  const weights = { file: file.replace('.onnx', '.weights'), tensors }
  return openNativeSession(file, { entries: {}, memoryPattern: false, offload: { weights, memory: () => memory } })
}

test.skipIf(!hasAddon()).each(['reserved memory', 'host memory'])(
  'tensors on the device are joined in %s',
  async (where) => {
    const { memory, log } = createHostMemory()
    const file = path.join(directory, 'clip_l.onnx')
    const session = await (where === 'host memory'
      ? openSession(file, { target: 'cpu', binding: 'native' })
      : open(file, memory))
    onTestFinished(() => session.release())
    const both = { input_ids: { data: BigInt64Array.from({ length: 154 }, (_, i) => BigInt(i * 3)), dims: [2, 77] } }
    const [one, two] = [(await session.runOnDevice(INPUTS)).hidden!, (await session.runOnDevice(both)).hidden!]
    log.length = 0
    const joined = await one.join([two])
    const [, tokens, width] = one.dims
    expect(joined.dims).toEqual([3, tokens, width])
    const values = joined instanceof NativeDeviceTensor ? readTensor(NativeDeviceTensor.nativeOf(joined)) : joined
    const parts = [await session.run(INPUTS), await session.run(both)].map(({ hidden }) => hidden!)
    expect((values as Tensor).data).toEqual(concatenate(parts).data)
    for (const tensor of [joined, one, two]) tensor.release()
    expect(log).toEqual(where === 'host memory' ? [] : ['reserve', 'map', 'recycle', 'unreserve'])
  },
)

test.skipIf(!hasAddon())('a failed copy leaves no memory mapped for the joined tensor', async () => {
  const { memory, log } = createHostMemory()
  const session = await open(path.join(directory, 'clip_l.onnx'), memory)
  onTestFinished(() => session.release())
  const one = (await session.runOnDevice(INPUTS)).hidden!
  onTestFinished(() => one.release())
  log.length = 0
  memory.copyOnDevice = () => Promise.reject(new Error('no copy'))
  await expect(one.join([one])).rejects.toThrow('no copy')
  expect(log).toEqual(['reserve', 'map', 'recycle', 'unreserve'])
})

describe.skipIf(!hasAddon())('weights in reserved memory', () => {
  test("have the same results as onnxruntime's own weights, and are read from the file once", async () => {
    const { memory, log } = createHostMemory()
    const session = await open(path.join(directory, 'clip_l.onnx'), memory)
    expect(await session.run(INPUTS)).toEqual(expected)
    expect(await session.run(INPUTS)).toEqual(expected)
    expect(log).toEqual(['reserve', 'map', 'register', 'copy', 'unregister'])
    await session.release()
    expect(log.slice(5)).toEqual(['free', 'unreserve'])
  })

  test('are uploaded the first time, and mapped from then on, where the device supports uploads', async () => {
    const { memory, log } = createHostMemory()
    memory.uploadFile = async (file, to, bytes) => {
      log.push('upload')
      const { addressOf, copyMemory } = loadNative()
      copyMemory(to, addressOf(await readFile(file)), bytes)
    }
    const session = await open(path.join(directory, 'clip_l.onnx'), memory)
    onTestFinished(() => session.release())
    expect(await session.run(INPUTS)).toEqual(expected)
    for (let i = 0; i < 2; i++) {
      session.weights!.unload()
      expect(await session.run(INPUTS)).toEqual(expected)
    }
    expect(log).toEqual([
      'reserve',
      'map',
      'upload',
      ...['recycle', 'map', 'register', 'copy'],
      'recycle',
      'map',
      'copy',
    ])
  })

  test('whose upload fails are not taken for loaded', async () => {
    const { memory, log } = createHostMemory()
    memory.uploadFile = () => Promise.reject(new Error('the disk is gone'))
    await expect(open(path.join(directory, 'clip_l.onnx'), memory)).rejects.toThrow(/clip_l\.onnx: the disk is gone/)
    expect(log).toEqual(['reserve', 'map', 'recycle', 'unreserve'])
  })

  test('are the weights of the session', async () => {
    const { memory } = createHostMemory()
    const session = await open(path.join(directory, 'clip_l.onnx'), memory)
    onTestFinished(() => session.release())
    session.weights!.unload()
    // Nothing is copied, so the weights are NaN.
    const { copyFromHost } = memory
    memory.copyFromHost = async () => {}
    expect([...((await session.run(INPUTS)).pooled!.data as Float32Array)].every(Number.isNaN)).toBe(true)
    memory.copyFromHost = copyFromHost
    session.weights!.unload()
    expect(await session.run(INPUTS)).toEqual(expected)
  })

  test('are loaded after a run for which the device had no memory left', async () => {
    const { memory } = createHostMemory()
    const session = await open(path.join(directory, 'clip_l.onnx'), memory)
    onTestFinished(() => session.release())
    session.weights!.unload()
    const { map } = memory
    memory.map = () => {
      throw new Error('out of memory')
    }
    await expect(session.run(INPUTS)).rejects.toThrow('out of memory')
    memory.map = map
    expect(await session.run(INPUTS)).toEqual(expected)
  })

  test('are shared by a second graph, which is released with the session', async () => {
    const { memory, log } = createHostMemory()
    const [file, other] = ['transformer.onnx', 'control-embedding.onnx'].map((name) => path.join(directory, name))
    const { manifest } = await openPackage(directory)
    const weights = {
      file: path.join(directory, 'transformer.weights'),
      tensors: manifest.weights['transformer.weights']!,
    }
    const offload = { weights, memory: () => memory }
    const session = await openNativeSession(file!, { entries: {}, memoryPattern: false, offload })
    const alone = await openSession(other!, { target: 'cpu', binding: 'native' })
    const inputs = { latent: { data: Float32Array.from({ length: 768 }, (_, i) => Math.sin(i)), dims: [1, 16, 8, 6] } }
    const tokens = await alone.run(inputs)
    await alone.release()
    const embedding = await session.another!(other!)
    expect(await embedding.run(inputs)).toEqual(tokens)
    expect(await session.another!(other!)).toBe(embedding)
    session.weights!.unload()
    expect(await embedding.run(inputs)).toEqual(tokens)
    expect(log.filter((call) => call === 'reserve')).toHaveLength(1)
    await session.release()
    await expect(embedding.run(inputs)).rejects.toThrow('the session was released')
    await expect(session.another!(path.join(directory, 'control-transformer.onnx'))).rejects.toThrow(
      'the session was released',
    )
    expect(log.filter((call) => call === 'unreserve')).toHaveLength(1)
  })

  test('are unloaded and reloaded while the session stays open; a file read repeatedly stays mapped', async () => {
    const { memory, log } = createHostMemory()
    const session = await open(path.join(directory, 'clip_l.onnx'), memory)
    for (let i = 0; i < 3; i++) {
      session.weights!.unload()
      await session.weights!.load()
      expect(await session.run(INPUTS)).toEqual(expected)
    }
    expect(log.filter((call) => call === 'register')).toHaveLength(2)
    expect(log.filter((call) => call === 'copy')).toHaveLength(4)
    await session.release()
    expect(log.slice(-3)).toEqual(['free', 'unreserve', 'unregister'])
  })

  test('are reloaded for a run if they are unloaded', async () => {
    const { memory, log } = createHostMemory()
    const session = await open(path.join(directory, 'clip_l.onnx'), memory)
    onTestFinished(() => session.release())
    session.weights!.unload()
    session.weights!.unload()
    // Neither of two concurrent runs uses weights whose copy is incomplete.
    expect(await Promise.all([session.run(INPUTS), session.run(INPUTS)])).toEqual([expected, expected])
    expect(log).toEqual(['reserve', 'map', 'register', 'copy', 'unregister', 'recycle', 'map', 'register', 'copy'])
  })

  test('can be loaded again after an attempt without enough memory, which leaks nothing', async () => {
    const { memory, log } = createHostMemory(1)
    await expect(open(path.join(directory, 'clip_l.onnx'), memory)).rejects.toMatchObject({
      name: 'SessionError',
      message: expect.stringMatching(/cannot open .*clip_l\.onnx: CUDA: out of memory/),
    })
    expect(log).toEqual(['reserve', 'unreserve'])
  })

  test('do not count as loaded after a failed copy', async () => {
    const { memory, log } = createHostMemory()
    const session = await open(path.join(directory, 'clip_l.onnx'), memory)
    onTestFinished(() => session.release())
    session.weights!.unload()
    const { copyFromHost } = memory
    memory.copyFromHost = () => Promise.reject(new Error('GPU has fallen off the bus'))
    await expect(session.run(INPUTS)).rejects.toThrow(/clip_l\.onnx failed: GPU has fallen off the bus/)
    expect(log.at(-1)).toBe('recycle')
    memory.copyFromHost = copyFromHost
    expect(await session.run(INPUTS)).toEqual(expected)
  })
})

describe.skipIf(!hasAddon())('a weights file that does not fit its layout', () => {
  let scratch: string
  let file: string
  beforeAll(async () => {
    scratch = await mkdtemp(path.join(tmpdir(), 'octet-weights-'))
    await cp(directory, scratch, { recursive: true })
    file = path.join(scratch, 'clip_l.onnx')
  })
  afterAll(() => rm(scratch, { recursive: true }))

  test('is refused if it is truncated', async () => {
    await truncate(path.join(scratch, 'clip_l.weights'), 1000)
    const { memory, log } = createHostMemory()
    await expect(open(file, memory)).rejects.toThrow(/cannot open .*: .* extends beyond the end of .*clip_l\.weights/)
    expect(log).toEqual([])
  })

  test('is refused if it is missing', async () => {
    await rm(path.join(scratch, 'clip_l.weights'))
    await expect(open(file, createHostMemory().memory)).rejects.toThrow(/cannot open .*ENOENT.*clip_l\.weights/)
  })

  test('is refused if its graph is malformed', async () => {
    await writeFile(file, Buffer.alloc(64, 0xff))
    await expect(open(file, createHostMemory().memory)).rejects.toThrow(/cannot open .*clip_l\.onnx: /)
  })
})

test('the layout in the manifest equals that in the graph', async () => {
  const { weights } = (await openPackage(directory)).manifest
  for (const [file, layout] of Object.entries(weights)) {
    const model = ModelProto.decode(await readFile(path.join(directory, file.replace('.weights', '.onnx'))))
    const external = (model as unknown as DecodedTensor).graph.initializer.filter(
      ({ dataLocation }) => dataLocation === 1,
    )
    expect(external.length).toBeGreaterThan(10)
    const stored = external.map(({ name, dataType, dims, externalData }) => {
      const { location, offset, length } = Object.fromEntries(externalData.map(({ key, value }) => [key, value]))
      expect(location).toBe(file)
      return { name, type: dataType, shape: dims.map(Number), offset: Number(offset), bytes: Number(length) }
    })
    expect(stored).toEqual(
      layout.map(({ name, dtype, shape, offset }) => ({
        ...{ name, type: ONNX_DATA_TYPES[dtype], shape, offset, bytes: computeTensorBytes(dtype, shape) },
      })),
    )
  }
})
