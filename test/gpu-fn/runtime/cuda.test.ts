// GPU memory with fake CUDA libraries (test/support/native/fake-cuda.cc), in a child process with these in its library path.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, open, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { hasAddon, hasCompiler } from '../../support/native/addon.ts'

const ROOT = path.join(import.meta.dirname, '../../..')
const FAKE = path.join(ROOT, 'test/support/native/fake-cuda.cc')
/** The directory of the fake libraries. */
let libraries: string

/** Writes a file next to the libraries; returns its path. */
async function writeNoise(name: string, bytes: number): Promise<string> {
  const file = path.join(libraries, name)
  await writeFile(file, randomBytes(bytes))
  return file
}

/** Writes a sparse file that differs in each of its chunks of 8 MiB; returns its path. */
async function writeChunks(name: string, count: number): Promise<string> {
  const file = path.join(libraries, name)
  const handle = await open(file, 'w')
  for (let chunk = 0; chunk < count; chunk++) await handle.write(randomBytes(1000), 0, 1000, (chunk << 23) + 4_000_000)
  await handle.truncate(count << 23)
  await handle.close()
  return file
}

/** Limits of the fake GPU: device memory and pinned memory in bytes, and the number of copies before it fails. */
type Limits = { bytes?: number; pinned?: number; copies?: number }

/** Runs a program with `loadCuda` and the fake libraries; returns the JSON that it prints. */
async function run(program: string, { bytes = 1 << 30, pinned, copies }: Limits = {}): Promise<unknown> {
  const imports = ['cuda', 'native', 'session-native'].map(
    (name) => `import * as ${name.replace('-', '_')} from '${ROOT}/gpu-fn/runtime/${name}.ts'`,
  )
  const source = `${imports.join('\n')}
    import { readFileSync } from 'node:fs'
    const { loadCuda } = cuda, { loadNative } = native, { openNativeSession } = session_native
    const { addressOf, copyMemory } = loadNative()
    const read = (address, bytes) => { const copy = Buffer.alloc(bytes); copyMemory(addressOf(copy), address, bytes); return copy }
    const failure = async (action) => { try { await action() } catch (error) { return error.message } }
    const print = (value) => console.log(JSON.stringify(value))
    const upload = async (file, bytes) => {
      const memory = loadCuda(0)
      const range = Math.ceil(bytes / memory.granularity) * memory.granularity
      const to = memory.reserve(range)
      const mapping = memory.map(to, range)
      await memory.uploadFile(file, to, bytes)
      const isEqual = read(to, bytes).equals(readFileSync(file).subarray(0, bytes))
      mapping.free()
      return isEqual
    }
    ${program}`
  const limits = {
    FAKE_CUDA_BYTES: String(bytes),
    ...(pinned !== undefined && { FAKE_CUDA_PINNED_BYTES: String(pinned) }),
    ...(copies !== undefined && { FAKE_CUDA_COPIES: String(copies) }),
  }
  const env = { ...process.env, LD_LIBRARY_PATH: libraries, ...limits }
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', source], { env })
  return JSON.parse(stdout)
}

describe.skipIf(!hasAddon() || !hasCompiler())('GPU memory', () => {
  beforeAll(async () => {
    libraries = await mkdtemp(path.join(tmpdir(), 'octet-cuda-'))
    const library = path.join(libraries, 'libcudart.so.13')
    await promisify(execFile)('g++', ['-std=c++17', '-shared', '-fPIC', '-o', library, FAKE])
    await symlink(library, path.join(libraries, 'libcuda.so.1'))
  })
  afterAll(() => rm(libraries, { recursive: true }))

  test('is mapped, written and moved to another range', async () => {
    const program = `
      const memory = loadCuda(0)
      const bytes = 2 * memory.granularity
      const [one, two] = [memory.reserve(bytes), memory.reserve(bytes)]
      const first = memory.map(one, bytes)
      await memory.upload(one + 5n, Buffer.from('hello'))
      const host = Buffer.from('from the host')
      await memory.copyFromHost([{ to: one + 100n, from: addressOf(host), bytes: host.length }])
      await memory.copyOnDevice(one + BigInt(memory.granularity), one, 200)
      const texts = [read(one + 5n, 5), read(one + BigInt(memory.granularity) + 100n, host.length)].map(String)
      first.recycle()
      const second = memory.map(two, bytes)
      const moved = read(two + BigInt(memory.granularity) + 5n, 5) + read(two + 5n, 5)
      second.free()
      memory.unreserve(one, bytes)
      memory.unreserve(two, bytes)
      const registered = await memory.register(addressOf(host), host.length)
      await memory.unregister(addressOf(host))
      print({ texts, moved, registered, again: await failure(() => memory.unregister(addressOf(host))) })`
    expect(await run(program)).toEqual({
      ...{ texts: ['hello', 'from the host'], moved: 'hellohello', registered: true },
      again: 'CUDA: unregistration, GPU 0: invalid argument',
    })
  })

  test('reports exhaustion and an unknown GPU with the message of CUDA', async () => {
    const program = `
      const memory = loadCuda(0)
      const bytes = 3 * memory.granularity
      const address = memory.reserve(bytes)
      const full = await failure(() => memory.map(address, bytes))
      memory.map(address, memory.granularity).free()
      const copy = await failure(() => memory.copyOnDevice(0n, address, 1))
      print([full, copy, await failure(() => loadCuda(1))])`
    expect(await run(program, { bytes: 40 << 20 })).toEqual([
      'CUDA: allocation, GPU 0: out of memory',
      'CUDA: copy, GPU 0: invalid argument',
      'CUDA 13 is not available: CUDA: selection, GPU 1: invalid device ordinal',
    ])
  })

  test('has the bytes of uploaded files, with concurrent uploads and with the beginning of a file', async () => {
    // Whole chunks and a part of one, a byte, and one chunk.
    const sizes = [(40 << 20) + 12_345, 1, 8 << 20]
    const files = await Promise.all(sizes.map((bytes, i) => writeNoise(`upload-${i}`, bytes)))
    const program = `
      const [sizes, files] = ${JSON.stringify([sizes, files])}
      print([...await Promise.all(files.map((file, i) => upload(file, sizes[i]))), await upload(files[0], 9 << 20)])`
    expect(await run(program)).toEqual([true, true, true, true])
  })

  test('has the bytes of a file with more chunks than buffers, whose copies end late', async () => {
    const chunks = 24
    const file = await writeChunks('many-chunks', chunks)
    const program = `print(await upload(${JSON.stringify(file)}, ${chunks << 23}))`
    expect(await run(program)).toBe(true)
    // Without pinned buffers, and with fewer than it needs.
    for (const pinned of [0, 20_000_000]) expect(await run(program, { pinned })).toBe(true)
  })

  test('has no uploads for files that are mapped, and the same memory', async () => {
    const program = `
      const [{ uploadFile, ...others }, mapping] = [loadCuda(0), cuda.loadCudaForMapping(0)]
      print([typeof uploadFile, mapping.uploadFile ?? null, Object.entries(others).every(([name, value]) => mapping[name] === value)])`
    expect(await run(program)).toEqual(['function', null, true])
  })

  test('fails an upload, and each later one, when the GPU fails', async () => {
    const file = await writeChunks('lost', 20)
    const program = `
      const again = () => failure(() => upload(${JSON.stringify(file)}, ${20 << 23}))
      print([await again(), await again()])`
    const lost = /^CUDA: (copy|synchronization of a stream), GPU 0: unspecified launch failure$/
    expect(await run(program, { copies: 5 })).toEqual([expect.stringMatching(lost), expect.stringMatching(lost)])
  })

  test('states why a file cannot be uploaded, and accepts the next', async () => {
    const file = await writeNoise('short', 1000)
    const program = `
      const memory = loadCuda(0)
      const file = ${JSON.stringify(file)}
      const to = memory.reserve(2 * memory.granularity)
      memory.map(to, 2 * memory.granularity)
      const failures = [
        await failure(() => memory.uploadFile(file + '-none', to, 10)),
        await failure(() => memory.uploadFile(file, to, 20 << 20)),
        await failure(() => memory.uploadFile(file, 0n, 1000)),
      ]
      await memory.uploadFile(file, to, 1000)
      print([...failures, read(to, 1000).toString('base64')])`
    expect(await run(program)).toEqual([
      `${file}-none cannot be read: No such file or directory`,
      `${file} cannot be read: unexpected end of file`,
      'CUDA: copy, GPU 0: invalid argument',
      await readFile(file, 'base64'),
    ])
  })

  test('has streams with events', async () => {
    const program = `
      const gpu = loadNative().Gpu.open(0)
      const [one, two, event] = [gpu.createStream(), gpu.createStream(), gpu.createEvent()]
      const from = Buffer.from('hello'), to = Buffer.alloc(5)
      event.record(one)
      two.wait(event)
      await two.copyFromHost([{ to: addressOf(to), from: addressOf(from), bytes: 5 }])
      print([String(to), await failure(() => two.wait(one)), await failure(() => event.record(event))])`
    const refused = 'an object of another class was given to the addon'
    expect(await run(program)).toEqual(['hello', refused, refused])
  })

  test('holds the weights of a session, which can be unloaded and reloaded', async () => {
    const directory = await compileTiny({ tier: 'fp8' })
    const tensors = (await openPackage(directory)).manifest.weights['clip_l.weights']
    const program = `
      const [file, weightsFile] = ${JSON.stringify(['clip_l.onnx', 'clip_l.weights'].map((name) => path.join(directory, name)))}
      const offload = { weights: { file: weightsFile, tensors: ${JSON.stringify(tensors)} }, memory: loadCuda }
      const session = await openNativeSession(file, { entries: {}, memoryPattern: false, offload })
      const inputs = { input_ids: { data: new BigInt64Array(77), dims: [1, 77] } }
      const results = []
      for (let i = 0; i < 3; i++) {
        results.push(Array.from((await session.run(inputs)).pooled.data))
        session.weights.unload()
      }
      await session.release()
      const whole = await openNativeSession(file, { entries: {}, memoryPattern: false })
      print({ results, expected: Array.from((await whole.run(inputs)).pooled.data) })`
    const { results, expected } = (await run(program)) as { results: number[][]; expected: number[] }
    expect(expected.some((value) => value !== 0)).toBe(true)
    expect(results).toEqual([expected, expected, expected])
  })
})
