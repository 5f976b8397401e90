// The addon: validation of arguments, and work on other threads.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { ONNX_DATA_TYPES } from '../../../gpu-fn/dtype.ts'
import { loadNative, NATIVE_LIBRARY } from '../../../gpu-fn/runtime/native.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { hasGpu } from '../../support/gpu/gpu.ts'
import { readMemory } from '../../support/gpu/host-memory.ts'
import { hasAddon } from '../../support/native/addon.ts'

describe.skipIf(!hasAddon())('the addon', () => {
  test('copies tensors between buffers and onnxruntime', () => {
    const { Tensor } = loadNative()
    for (const data of [Float32Array.of(1.5, -2, 0), BigInt64Array.of(-1n, 2n, 2n ** 62n), Uint8Array.of(0, 7, 255)]) {
      const tensor = Tensor.copyOf(data, [3, 1])
      expect(tensor.dims).toEqual([3, 1])
      expect(tensor.read()).toEqual(data)
      tensor.release()
      expect(() => tensor.read()).toThrow('the tensor was released')
    }
    const empty = Tensor.copyOf(new Float32Array(), [0, 4])
    expect(empty.read()).toEqual(new Float32Array())
    empty.release()
  })

  test('rejects a count of values that does not match the shape, and unsupported types', () => {
    const { Tensor } = loadNative()
    expect(() => Tensor.copyOf(new Float32Array(5), [2, 3])).toThrow('5 values do not have the shape [2, 3]')
    expect(() => Tensor.copyOf(new Float64Array(1) as unknown as Float32Array, [1])).toThrow('neither float32 nor')
    expect(() => Tensor.view(null, 0n, 8, [1])).toThrow('unsupported element type 8')
  })

  test('a view of a tensor reads the memory of the tensor', () => {
    const { Tensor } = loadNative()
    const tensor = Tensor.copyOf(Float32Array.of(1, 2, 3, 4), [4])
    const view = Tensor.view(null, tensor.address + 8n, ONNX_DATA_TYPES.float32, [2])
    expect(view.read()).toEqual(Float32Array.of(3, 4))
    view.release()
    expect(tensor.read()).toEqual(Float32Array.of(1, 2, 3, 4))
    tensor.release()
  })

  test('rejects objects of another class and values of other types', () => {
    const { Tensor, Session } = loadNative()
    const tensor = Tensor.copyOf(Float32Array.of(1), [1])
    onTestFinished(() => tensor.release())
    const { release } = Object.getPrototypeOf(tensor) as { release(): void }
    for (const value of [{}, Session, null]) expect(() => release.call(value)).toThrow('Illegal invocation')
    const settings = { entries: {}, memoryPattern: false, initializers: { weight: {} as never } }
    expect(() => Session.open('none.onnx', settings)).toThrow('object of another class')
    const wrong = { entries: {}, memoryPattern: 'yes' as never }
    expect(() => Session.open('none.onnx', wrong)).toThrow('boolean was expected')
    expect(() => new (Tensor as unknown as new () => unknown)()).toThrow('created by functions of the addon')
  })

  test('maps files, and reports why a file cannot be mapped', async () => {
    const { MappedFile } = loadNative()
    const scratch = await mkdtemp(path.join(tmpdir(), 'octet-native-'))
    onTestFinished(() => rm(scratch, { recursive: true }))
    const file = path.join(scratch, 'file')
    await writeFile(file, 'twelve bytes')
    const mapped = await MappedFile.open(file, 12)
    expect(readMemory(mapped.address, 12).toString()).toBe('twelve bytes')
    await mapped.close()
    await expect(MappedFile.open(`${file}.none`, 12)).rejects.toThrow(/file\.none cannot be mapped: No such file/)
    await expect(MappedFile.open(file, 13)).rejects.toThrow(/file cannot be mapped: it has 12 of 13 bytes/)
  })

  test.each([-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53])('refuses %d bytes', (bytes) => {
    const { addressOf, copyMemory, MappedFile } = loadNative()
    const address = addressOf(new Uint8Array(1))
    for (const call of [() => copyMemory(address, address, bytes), () => MappedFile.open(NATIVE_LIBRARY, bytes)])
      expect(call).toThrow('is not a size, an index or a count')
  })

  test('a prepared run holds its session and its tensors', async () => {
    const { Session, Tensor } = loadNative()
    const directory = await compileTiny({ tier: 'fp8' })
    const session = await Session.open(path.join(directory, 'clip_l.onnx'), { entries: {}, memoryPattern: false })
    const tokens = Tensor.copyOf(new BigInt64Array(77), [1, 77])
    const first = await session.prepare({ input_ids: tokens }, { hidden: 'host', pooled: 'host' }).start()
    const expected = first.hidden!.read()
    const view = Tensor.view(null, first.pooled!.address, ONNX_DATA_TYPES.float32, first.pooled!.dims)
    const run = session.prepare({ input_ids: tokens }, { hidden: 'host', pooled: view })
    const unknown = { hidden: 'disk' as never }
    expect(() => session.prepare({ input_ids: tokens }, unknown)).toThrow('on the host or the device, not on disk')
    for (const each of [tokens, view, session]) each.release()
    expect(() => session.prepare({}, {})).toThrow('the session was released')
    const results = await run.start()
    expect(Object.keys(results)).toEqual(['hidden'])
    expect(results.hidden!.read()).toEqual(expected)
    expect(() => run.start()).toThrow('the run has already been started')
  })

  test.skipIf(hasGpu())('names the missing CUDA library', () => {
    expect(() => loadNative().Gpu.open(0)).toThrow(/libcuda/)
  })

  /** Prelude of programs that load the addon in a child process and print a line. */
  const PRELUDE = `
    import { createRequire } from 'node:module'
    import { Worker } from 'node:worker_threads'
    const load = () => createRequire(${JSON.stringify(NATIVE_LIBRARY)})(${JSON.stringify(NATIVE_LIBRARY)})
  `
  const end = async (program: string) => {
    const child = spawn(process.execPath, ['--input-type=module', '--eval', PRELUDE + program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let output = ''
    child.stdout.on('data', (chunk) => (output += chunk))
    const [code, signal] = await once(child, 'close')
    return { code, signal, output }
  }

  test('an idle addon does not keep a process alive, unfinished work does', async () => {
    const file = JSON.stringify(NATIVE_LIBRARY)
    const program = `load().MappedFile.open(${file}, 100).then(({ address }) => console.log(typeof address))`
    expect(await end('load()')).toEqual({ code: 0, signal: null, output: '' })
    expect(await end(program)).toEqual({ code: 0, signal: null, output: 'bigint\n' })
  })

  test('the exit of a worker thread with unfinished work does not affect other threads', async () => {
    const file = JSON.stringify(NATIVE_LIBRARY)
    const ended = `const addon = require(${file}); for (let i = 0; i < 100; i++) addon.MappedFile.open(${file}, 100); process.exit()`
    const program = `
      const addon = load()
      for (let i = 0; i < 5; i++) {
        const worker = new Worker(${JSON.stringify(ended)}, { eval: true, execArgv: [] })
        await new Promise((resolve) => worker.once('exit', resolve))
      }
      console.log(typeof (await addon.MappedFile.open(${file}, 100)).address)
    `
    expect(await end(program)).toEqual({ code: 0, signal: null, output: 'bigint\n' })
  })
})
