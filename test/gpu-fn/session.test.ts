import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openSession, type Session, type Tensor } from '../../gpu-fn/session.ts'
import { compileTiny } from '../support/compile.ts'

const ids = (batch: number, tokens: number): Tensor => ({
  data: BigInt64Array.from({ length: batch * tokens }, (_, i) => BigInt((i * 37) % 990)),
  dims: [batch, tokens],
})
const refusal = (message: RegExp) =>
  expect.objectContaining({ name: 'SessionError', message: expect.stringMatching(message) })

describe('a session on the CPU', () => {
  let directory: string
  let session: Session
  beforeAll(async () => {
    directory = await compileTiny({ tier: 'fp8' })
    session = await openSession(path.join(directory, 'clip_l.onnx'), { target: 'cpu' })
  })
  afterAll(() => session.release())

  test('gives each sample of a batch what it gives the sample alone', async () => {
    const both = await session.run({ input_ids: ids(2, 77) })
    const { data } = ids(2, 77)
    const second = await session.run({ input_ids: { data: data.slice(77) as BigInt64Array, dims: [1, 77] } })
    expect(both.hidden!.dims.slice(0, 2)).toEqual([2, 77])
    const half = both.hidden!.data.length / 2
    for (let i = 0; i < half; i++) expect(second.hidden!.data[i]).toBeCloseTo(Number(both.hidden!.data[half + i]), 5)
  })

  test('reads a view of a larger buffer', async () => {
    const { data } = ids(3, 77)
    const view = data.subarray(77, 154) as BigInt64Array
    const ofView = await session.run({ input_ids: { data: view, dims: [1, 77] } })
    expect(ofView).toEqual(await session.run({ input_ids: { data: view.slice(), dims: [1, 77] } }))
  })

  test('gives the same values whether FP8 weights are widened once or in every run', async () => {
    const file = path.join(directory, 't5.onnx')
    const results: Tensor[] = []
    for (const fold of [false, true]) {
      const t5 = await openSession(file, { target: 'cpu', fold, threads: 1 })
      results.push((await t5.run({ input_ids: ids(1, 40) })).hidden!)
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
    await expect(session.run(inputs)).rejects.toThrow(refusal(message))
  })
})

describe('files that cannot be opened', () => {
  let scratch: string
  beforeAll(async () => {
    scratch = await mkdtemp(path.join(tmpdir(), 'octet-session-'))
  })
  afterAll(() => rm(scratch, { recursive: true }))

  test('a missing one', async () => {
    await expect(openSession(path.join(scratch, 'none.onnx'), { target: 'cpu' })).rejects.toThrow(
      refusal(/cannot open .*none\.onnx/),
    )
  })

  test('one that is not ONNX', async () => {
    const file = path.join(scratch, 'noise.onnx')
    await writeFile(file, 'not a graph at all')
    await expect(openSession(file, { target: 'cpu' })).rejects.toThrow(refusal(/cannot open .*noise\.onnx: /))
  })
})
