// Runs as CUDA graphs, with fake CUDA libraries and a session on the CPU. The launch of a fake graph computes nothing, so its results are
// those of the last ordinary run.
import { rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Graph } from '../../../gpu-fn/compile/graph/graph.ts'
import * as ops from '../../../gpu-fn/compile/graph/ops.ts'
import { encodeModel } from '../../../gpu-fn/compile/write/onnx.ts'
import { hasAddon, hasCompiler } from '../../support/native/addon.ts'
import { buildFakeCuda, type FakeCuda, runWithFakeCuda } from '../../support/native/fake-cuda.ts'

const LAUNCH = 'cudaGraphLaunch'
const DESTROY = 'cudaGraphExecDestroy'
const CAPTURE = ['cudaStreamBeginCapture', 'cudaStreamEndCapture', 'cudaGraphInstantiate']
/** Node types of CUDA. */
const [KERNEL, COPY, FILL, HOST, EMPTY, ALLOCATION, DEALLOCATION] = [0, 1, 2, 3, 5, 10, 11]
/** In the fake: a copy from host memory. */
const COPY_FROM_HOST = 101
const REFUSED = 'operation not permitted when stream is capturing'

let libraries: string
let file: string

/** Runs a program with a captured session that computes 2x and x²; `run(...x)` returns both. */
async function run(program: string, fake: FakeCuda = {}) {
  const prelude = `
    const session = await session_native.openNativeSession(${JSON.stringify(file)}, { entries: {}, memoryPattern: false, capture: true })
    const inputOf = (x) => ({ x: { data: Float32Array.from(x), dims: [x.length] } })
    const run = async (...x) => {
      const { double, square } = await session.run(inputOf(x))
      return [...double.data, ...square.data]
    }
    const states = () => session.describeCaptures()
  `
  const { result, calls } = await runWithFakeCuda(libraries, prelude + program, fake)
  return { result, calls: calls.filter((call) => !call.startsWith('memories')), memories: calls.at(-1) }
}

describe.skipIf(!hasAddon() || !hasCompiler())('runs as CUDA graphs', () => {
  beforeAll(async () => {
    libraries = await buildFakeCuda()
    file = path.join(libraries, 'graph.onnx')
    const graph = new Graph('test')
    const x = graph.input('x', 'float32', ['N'])
    graph.output('double', ops.add(x, x))
    graph.output('square', ops.multiply(x, x))
    await writeFile(file, encodeModel(graph, { location: '', layout: [] }, '0'))
  })
  afterAll(() => rm(libraries, { recursive: true }))

  test('are captured after the second run, and launched from the third on', async () => {
    const program = `
      const results = [await run(1, 2), await run(3, 4)]
      const before = await states()
      print([...results, before, await run(5, 6), await run(7, 8)])`
    const { result, calls } = await run(program, { nodes: [KERNEL, COPY, FILL, EMPTY, ALLOCATION, DEALLOCATION] })
    const stale = [6, 8, 9, 16]
    expect(result).toEqual([[2, 4, 1, 4], stale, ['x 1 [2], to double square: captured'], stale, stale])
    expect(calls).toEqual([...CAPTURE, LAUNCH, LAUNCH])
  })

  test('have device tensors of their own as inputs and results', async () => {
    const program = `
      const first = await session.runOnDevice(inputOf([1, 2]))
      const second = await session.runOnDevice({ x: first.double })
      const third = await session.runOnDevice({ x: second.double })
      print([(await session.run({ x: third.square })).double.data, (await session.run({ x: first.double })).double.data])
      for (const tensors of [first, second, third]) for (const tensor of Object.values(tensors)) tensor.release()
      await session.release()`
    const { result, memories } = await run(program)
    // The second run was the last ordinary one, of [2, 4].
    const stale = { 0: 4, 1: 8 }
    expect(result).toEqual([stale, stale])
    expect(memories).toBe('memories 0')
  })

  test.each([
    ['host functions', [KERNEL, HOST], 'the graph has a node of type 3'],
    ['copies from host memory', [COPY, COPY_FROM_HOST], 'the graph copies from or to host memory'],
    ['memory that stays allocated', [ALLOCATION, ALLOCATION, DEALLOCATION], 'the graph leaves memory allocated'],
  ])('stay ordinary with %s', async (_, nodes, reason) => {
    const { result, calls } = await run('print([await run(1), await run(2), await run(3), await states()])', { nodes })
    expect(result).toEqual([[2, 1], [4, 4], [6, 9], [`x 1 [1], to double square: ${reason}`]])
    expect(calls).toEqual(CAPTURE.slice(0, 2))
  })

  test.each([
    ['cudaStreamBeginCapture', 'beginning of a capture', CAPTURE.slice(0, 1)],
    ['cudaStreamEndCapture', 'end of a capture', CAPTURE.slice(0, 2)],
    ['cudaGraphInstantiate', 'instantiation of a graph', CAPTURE],
    [LAUNCH, 'launch of a graph', [...CAPTURE, LAUNCH, DESTROY]],
  ])('stay ordinary after a failure of %s', async (failure, what, expected) => {
    const program = 'print([await run(1), await run(2), await run(3), await run(4), await states()])'
    const { result, calls } = await run(program, { failure })
    const reason = `x 1 [1], to double square: CUDA: ${what}: ${REFUSED}`
    expect(result).toEqual([[2, 1], [4, 4], [6, 9], [8, 16], [reason]])
    expect(calls).toEqual(expected)
  })

  test('have one graph for each of eight signatures, and destroy the least recently used one first', async () => {
    const program = `
      const lengths = Array.from({ length: 8 }, (_, i) => Array(i + 1).fill(1))
      for (const x of [...lengths, ...lengths]) await run(...x)
      await run(1)
      await run(...Array(9).fill(1))
      const names = (await states()).map((state) => state.replace('x 1 ', '').replace(', to double square', ''))
      print([names, await run(5), await run(3, 4)])`
    const { result, calls } = await run(program)
    const kept = [8, 7, 6, 5, 4, 3].map((length) => `[${length}]: captured`)
    // One value is launched; two values run ordinarily again.
    expect(result).toEqual([
      ['[9]: not yet captured', '[1]: captured', ...kept],
      [2, 1],
      [6, 8, 9, 16],
    ])
    const captures = Array.from({ length: 8 }, () => CAPTURE).flat()
    expect(calls).toEqual([...captures, LAUNCH, DESTROY, LAUNCH, DESTROY])
  })

  test('are destroyed with their session, with all memory', async () => {
    const program =
      'for (const x of [1, 2, 3]) await run(x)\n await session.release()\n print(await failure(() => run(4)))'
    const { result, calls, memories } = await run(program)
    expect(result).toMatch(/the session was released/)
    expect(calls).toEqual([...CAPTURE, LAUNCH, DESTROY])
    expect(memories).toBe('memories 0')
  })

  test('are ordinary in sessions of other graphs over the same weights', async () => {
    const program = `
      const other = await session.another(${JSON.stringify(file)})
      for (const x of [1, 2, 3]) await other.run(inputOf([x]))
      print([(await other.run(inputOf([4]))).double.data, await other.describeCaptures()])`
    const { result, calls } = await run(program)
    expect(result).toEqual([{ 0: 8 }, []])
    expect(calls).toEqual([])
  })

  test('that are canceled or given a wrong input fail, and can be repeated', async () => {
    const program = `
      const wrong = await failure(() => session.run({ y: { data: Float32Array.of(1), dims: [1] } }))
      const canceled = await failure(() => session.run(inputOf([1]), { signal: AbortSignal.abort(new Error('stopped')) }))
      print([wrong, canceled, await run(1), await run(2), await run(3)])`
    const { result, calls } = await run(program)
    const message = expect.stringMatching(/y/)
    expect(result).toEqual([message, expect.stringMatching('stopped'), [2, 1], [4, 4], [4, 4]])
    expect(calls).toEqual([...CAPTURE, LAUNCH])
  })
})
