import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import type { Graph } from '../../../../gpu-fn/compile/graph/graph.ts'
import { buildStep } from '../../../../infra/bench/borrowed-weights.ts'
import { type CountedCall, countCalls } from '../../../../infra/bench/operators/calls.ts'
import { axesOf } from '../../../../infra/bench/step.ts'

const BLOCKS = 3

const graphs = new Map<string, Promise<Graph>>()

/** The step graph, shared by all tests. */
function graphOf(variant: 'large' | 'medium'): Promise<Graph> {
  const build = async () => {
    const scratch = await mkdtemp(path.join(os.tmpdir(), 'octet-calls-'))
    const model = await buildStep(scratch, variant, BLOCKS, { tier: 'fp8', target: 'cuda-fp8' })
    await rm(scratch, { recursive: true })
    return model.graphs.get('transformer')!
  }
  const graph = graphs.get(variant) ?? build()
  graphs.set(variant, graph)
  return graph
}

const callsOf = async (variant: 'large' | 'medium') => countCalls(await graphOf(variant), axesOf(1024))
const sum = (calls: readonly CountedCall[]) => calls.reduce((total, { count }) => total + count, 0)
const groupByOperator = (calls: readonly CountedCall[]) =>
  Object.fromEntries([...Map.groupBy(calls, ({ op }) => op)].map(([op, own]) => [op, sum(own)]))

test('operator calls of Large are counted, with both streams in one call and no text in the last block', async () => {
  const calls = await callsOf('large')
  expect(groupByOperator(calls)).toEqual({
    ModulateQuantize: 2 * BLOCKS,
    Linear: 4 * BLOCKS,
    GeluQuantize: BLOCKS,
    QkNormQuantize: BLOCKS,
    Attention: BLOCKS,
    QuantizeParts: BLOCKS,
  })
  const linear = calls.find(({ op, layers }) => op === 'Linear' && layers.includes('x_block.mlp.fc1'))!
  expect(linear).toMatchObject({ count: 1, attributes: { factor: 1 / 16 } })
  expect(calls).toContainEqual(
    expect.objectContaining({ count: BLOCKS - 1, layers: ['x_block.mlp.fc1 and context_block.mlp.fc1'] }),
  )
  expect(linear.inputs.map((tensor) => tensor!.shape)).toEqual([
    [1, 4096, 2432],
    [1, 4096],
    [9728, 2432],
    [9728, 1],
    [9728],
  ])
  expect(linear.outputs).toEqual([{ dtype: 'float16', shape: [1, 4096, 9728] }])
})

test('attention tensors have the kernel layout, with fewer queries in the last block', async () => {
  const attention = (await callsOf('large')).filter(({ op }) => op === 'Attention')
  expect(attention.map(({ count, outputs }) => ({ count, shape: outputs[0]!.shape }))).toEqual([
    { count: BLOCKS - 1, shape: [1, 4429, 2432] },
    { count: 1, shape: [1, 4096, 2432] },
  ])
  const [all, last] = attention.map(({ inputs }) => inputs.slice(0, 4).map((tensor) => tensor!.shape))
  expect(all).toEqual([[1, 38, 35 * 128, 64], [1, 38, 35, 128 * 64], [1, 38, 35, 64 * 128 + 4], [1]])
  expect(last).toEqual([[1, 38, 4096, 64], [1, 38, 35, 128 * 64], [1, 38, 35, 64 * 128 + 4], [1]])
  expect(attention[0]!.after).toMatchObject({ op: 'QkNormQuantize', outputs: attention[0]!.inputs.slice(0, 4) })
})

test('Medium has additional image-only attention, except in the last blocks', async () => {
  const calls = await callsOf('medium')
  const alone = calls.filter(({ op, inputs }) => op === 'Attention' && inputs[5] === null)
  expect(alone).toMatchObject([
    { count: BLOCKS - 1, layers: ['attn2'], inputs: [{}, {}, {}, {}, { shape: [1, 4096, 4608] }, null] },
  ])
})

test('time_operators.py supports the type of every tensor', async () => {
  const known = ['float32', 'float16', 'float8e4m3fn', 'uint8']
  for (const { inputs, outputs } of [...(await callsOf('large')), ...(await callsOf('medium'))])
    for (const tensor of [...inputs, ...outputs]) if (tensor) expect(known).toContain(tensor.dtype)
})

test('an axis of unknown length is an error', async () => {
  const graph = await graphOf('large')
  expect(() => countCalls(graph, { B: 1, S: 16 })).toThrow('the length of axis L is unknown')
})
