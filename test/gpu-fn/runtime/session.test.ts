import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { drawGaussianNoise } from '../../../gpu-fn/pipeline/noise.ts'
import { openSession } from '../../../gpu-fn/runtime/open-session.ts'
import type { Session, Tensor } from '../../../gpu-fn/runtime/session.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { hasGpu } from '../../support/gpu/gpu.ts'
import { hasAddon } from '../../support/native/addon.ts'

const createIds = (batch: number, tokens: number): Tensor => ({
  data: BigInt64Array.from({ length: batch * tokens }, (_, i) => BigInt((i * 37) % 990)),
  dims: [batch, tokens],
})
const createNoise = (dims: number[], seed: number): Tensor => ({
  data: drawGaussianNoise(
    seed,
    dims.reduce((n, dim) => n * dim),
  ),
  dims,
})
const createRefusal = (message: RegExp) =>
  expect.objectContaining({ name: 'SessionError', message: expect.stringMatching(message) })

const BINDINGS = hasAddon() ? (['node', 'native'] as const) : (['node'] as const)

describe.each(BINDINGS)('a session on the CPU through the %s binding', (binding) => {
  let directory: string
  let session: Session
  beforeAll(async () => {
    directory = await compileTiny({ tier: 'fp8' })
    session = await openSession(path.join(directory, 'clip_l.onnx'), { target: 'cpu', binding })
  })
  afterAll(() => session.release())

  test('has the same result for each sample of a batch as alone', async () => {
    const both = await session.run({ input_ids: createIds(2, 77) })
    const { data } = createIds(2, 77)
    const second = await session.run({ input_ids: { data: data.slice(77) as BigInt64Array, dims: [1, 77] } })
    expect(both.hidden!.dims.slice(0, 2)).toEqual([2, 77])
    const half = both.hidden!.data.length / 2
    for (let i = 0; i < half; i++) expect(second.hidden!.data[i]).toBeCloseTo(Number(both.hidden!.data[half + i]), 5)
  })

  test('returns only the requested outputs', async () => {
    const all = await session.run({ input_ids: createIds(1, 77) })
    expect(await session.run({ input_ids: createIds(1, 77) }, { only: ['pooled'] })).toEqual({ pooled: all.pooled })
  })

  test('reads a view of a larger buffer', async () => {
    const { data } = createIds(3, 77)
    const view = data.subarray(77, 154) as BigInt64Array
    const ofView = await session.run({ input_ids: { data: view, dims: [1, 77] } })
    expect(ofView).toEqual(await session.run({ input_ids: { data: view.slice(), dims: [1, 77] } }))
  })

  test('returns the same values whether FP8 weights are widened once or in every run', async () => {
    const file = path.join(directory, 't5.onnx')
    const results: Tensor[] = []
    for (const fold of [false, true]) {
      const t5 = await openSession(file, { target: 'cpu', binding, fold, threads: 1 })
      results.push((await t5.run({ input_ids: createIds(1, 40) })).hidden!)
      await t5.release()
    }
    const [unfolded, folded] = results as [Tensor, Tensor]
    expect(folded.dims).toEqual(unfolded.dims)
    for (const [i, value] of (folded.data as Float32Array).entries())
      expect(value).toBeCloseTo(Number(unfolded.data[i]), 5)
  })

  test.each([
    ['an input is missing', {}, /clip_l\.onnx failed: .*input_ids/s],
    [
      'an input has the wrong rank',
      { input_ids: { data: new BigInt64Array(77), dims: [77] } },
      /clip_l\.onnx failed: .*rank/is,
    ],
    [
      'an input has the wrong type',
      { input_ids: { data: new Float32Array(77), dims: [1, 77] } },
      /clip_l\.onnx failed: .*type/is,
    ],
    [
      'values do not fill the shape',
      { input_ids: { data: new BigInt64Array(5), dims: [1, 77] } },
      /clip_l\.onnx failed/,
    ],
  ])('names the file and the cause when %s', async (_, inputs, message) => {
    await expect(session.run(inputs)).rejects.toThrow(createRefusal(message))
  })

  test('names an unknown input', async () => {
    const inputs = { input_ids: createIds(1, 77), mood: createIds(1, 1) }
    await expect(session.run(inputs)).rejects.toThrow(createRefusal(/clip_l\.onnx failed: .*mood/s))
  })

  test('keeps results on their device, and reads them and their rows later', async () => {
    const open = (network: string) => openSession(path.join(directory, `${network}.onnx`), { target: 'cpu', binding })
    const [conditioning, transformer] = await Promise.all([open('conditioning'), open('transformer')])
    const prompts = { pooled: createNoise([1, 192], 1), prompt_embeds: createNoise([1, 5, 256], 2) }
    const inputs = { timesteps: { data: Float32Array.of(900, 500, 100), dims: [3] }, ...prompts }
    const resident = await conditioning.runOnDevice(inputs)
    const copied = await conditioning.run(inputs)
    expect(resident.modulation!.dims).toEqual(copied.modulation!.dims)
    const [, batch, width] = copied.modulation!.dims as [number, number, number]
    const latent = createNoise([1, 16, 8, 12], 3)
    for (const step of [0, 2]) {
      const data = copied.modulation!.data.slice(step * width, (step + 1) * width) as Float32Array
      const modulation = { data, dims: [batch, width] }
      const row = resident.modulation!.row(step)
      expect(row.dims).toEqual([batch, width])
      const expected = await transformer.run({ latent, modulation, context: copied.context! })
      expect(await transformer.run({ latent, modulation: row, context: resident.context! })).toEqual(expected)
    }
    expect(() => resident.modulation!.row(3)).toThrow(RangeError)
    for (const tensor of Object.values(resident)) tensor.release()
    await Promise.all([conditioning.release(), transformer.release()])
  })

  test('does not start an aborted run', async () => {
    const reason = new Error('nobody waits')
    await expect(session.run({ input_ids: createIds(1, 77) }, { signal: AbortSignal.abort(reason) })).rejects.toBe(
      reason,
    )
  })
})

describe.skipIf(!hasAddon())('the native binding', () => {
  let directory: string
  beforeAll(async () => {
    directory = await compileTiny({ tier: 'fp8' })
  })

  test.each(['clip_l', 'clip_g', 't5'])('computes %s as the Node binding does', async (network) => {
    const file = path.join(directory, `${network}.onnx`)
    const results = await Promise.all(
      BINDINGS.map(async (binding) => {
        const session = await openSession(file, { target: 'cpu', binding, threads: 1 })
        try {
          return await session.run({ input_ids: createIds(2, 77) })
        } finally {
          await session.release()
        }
      }),
    )
    expect(results[0]).toEqual(results[1])
  })

  test('does not block the event loop, and can stop in the middle of a run', async () => {
    const t5 = await openSession(path.join(directory, 't5.onnx'), { target: 'cpu', binding: 'native', threads: 1 })
    const abort = new AbortController()
    const long = createIds(1, 4096)
    const run = t5.run({ input_ids: long }, { signal: abort.signal })
    const reason = new Error('canceled')
    // The timer can fire and the run can end early only if the run does not block the event loop.
    setTimeout(() => abort.abort(reason), 5)
    await expect(run).rejects.toBe(reason)
    const { hidden } = await t5.run({ input_ids: createIds(1, 40) })
    expect(hidden!.dims.slice(0, 2)).toEqual([1, 40])
    await t5.release()
  })

  test('is released after its runs, and refuses new ones', async () => {
    const session = await openSession(path.join(directory, 't5.onnx'), { target: 'cpu', binding: 'native' })
    const run = session.run({ input_ids: createIds(1, 300) })
    await session.release()
    expect((await run).hidden!.dims.slice(0, 2)).toEqual([1, 300])
    await expect(session.run({ input_ids: createIds(1, 40) })).rejects.toThrow(
      createRefusal(/t5\.onnx failed: .*released/),
    )
    await session.release()
  })

  test('reports a library of operators that cannot be loaded', async () => {
    const options = { target: 'cuda-fp8', kernels: '/nowhere/liboctet-kernels.so' } as const
    const file = path.join(directory, 'clip_l.onnx')
    await expect(openSession(file, options)).rejects.toThrow(
      createRefusal(/cannot open .*clip_l\.onnx: .*liboctet-kernels/s),
    )
  })

  test.skipIf(hasGpu())('reports the absence of the CUDA provider', async () => {
    const file = path.join(directory, 'clip_l.onnx')
    await expect(openSession(file, { target: 'cuda' })).rejects.toThrow(createRefusal(/cannot open .*(provider|CUDA)/s))
  })
})

describe.each(BINDINGS)('files that cannot be opened through the %s binding', (binding) => {
  let scratch: string
  beforeAll(async () => {
    scratch = await mkdtemp(path.join(tmpdir(), 'octet-session-'))
  })
  afterAll(() => rm(scratch, { recursive: true }))

  test('a missing file', async () => {
    await expect(openSession(path.join(scratch, 'none.onnx'), { target: 'cpu', binding })).rejects.toThrow(
      createRefusal(/cannot open .*none\.onnx/),
    )
  })

  test('a file other than ONNX', async () => {
    const file = path.join(scratch, 'noise.onnx')
    await writeFile(file, 'not a graph at all')
    await expect(openSession(file, { target: 'cpu', binding })).rejects.toThrow(
      createRefusal(/cannot open .*noise\.onnx: /),
    )
  })
})
