import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { decodeTable, encode, quantizeRows } from '../../../gpu-fn/compile/checkpoint/formats/fp8.ts'
import { Graph, type Value } from '../../../gpu-fn/compile/graph/graph.ts'
import type { Operand } from '../../../gpu-fn/compile/graph/layer-types.ts'
import * as ops from '../../../gpu-fn/compile/graph/ops.ts'
import { encodeModel } from '../../../gpu-fn/compile/write/onnx.ts'
import { operators } from '../../../gpu-fn/kernels/reference.ts'
import { openSession } from '../../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../../gpu-fn/runtime/session.ts'
import { createPseudoRandom, type FloatTensor } from '../../support/checkpoints/tensors.ts'

/** Runs a graph of the operators' definitions. */
async function evaluate(
  inputs: Record<string, FloatTensor>,
  build: (values: Record<string, Value>) => Record<string, Value>,
): Promise<Record<string, Float32Array>> {
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-reference-'))
  try {
    const graph = new Graph('reference')
    const values = Object.entries(inputs).map(([name, { dims }]) => [name, graph.input(name, 'float32', dims)] as const)
    for (const [name, value] of Object.entries(build(Object.fromEntries(values)))) graph.output(name, value)
    const file = path.join(scratch, 'graph.onnx')
    await writeFile(file, encodeModel(graph, { location: '', layout: [] }, '0'))
    const session = await openSession(file, { target: 'cpu' })
    const results: Record<string, Tensor> = await session.run(inputs)
    await session.release()
    return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array]))
  } finally {
    await rm(scratch, { recursive: true })
  }
}

const castOperand = ({ rowScales, ...codes }: Operand) => ({ codes: ops.cast(codes, 'float32'), scales: rowScales! })

test('rows are quantized like weights: with the same codes and scales', async () => {
  const [rows, width] = [6, 40]
  const joint = createPseudoRandom([1, rows, width], 1)
  const given = await evaluate({ joint }, (v) => castOperand(operators.quantizeParts(v.joint!, v.joint!, null)[0]!))
  const codes = new Uint8Array(rows * width)
  const scales = new Float32Array(rows)
  quantizeRows(joint.data, rows, width, codes, scales)
  expect(given.scales).toEqual(scales)
  expect(given.codes).toEqual(Float32Array.from(codes, (code) => decodeTable[code]!))
})

test('a gated, added and normalized branch has the packed words computed by hand from its definition', async () => {
  const width = 8
  const stream = createPseudoRandom([1, 1, width], 1)
  const branch = createPseudoRandom([1, 1, width], 2)
  const modulation = createPseudoRandom([1, 3 * width], 3)
  const given = await evaluate({ stream, branch, modulation }, (v) => {
    const branches = [{ value: v.branch!, gate: 2 * width }]
    const options = { factor: 16, epsilon: 1e-6 }
    const { sum, normed } = operators.modulateQuantize(
      v.stream!,
      branches,
      v.modulation!,
      [{ shift: 0, scale: width }],
      options,
    )
    return { sum, ...castOperand(normed[0]!) }
  })
  const [shift, scale, gate] = [0, 1, 2].map((i) => modulation.data.subarray(i * width, (i + 1) * width))
  const sum = Array.from(stream.data, (x, i) => x + 16 * gate![i]! * branch.data[i]!)
  const mean = sum.reduce((a, b) => a + b) / width
  const deviation = Math.sqrt(sum.reduce((a, b) => a + (b - mean) ** 2, 0) / width + 1e-6)
  for (const [i, x] of sum.entries()) {
    expect(given.sum![i]).toBeCloseTo(x, 4)
    const normed = ((x - mean) / deviation) * scale![i]! + shift![i]!
    // A code is off by at most a sixteenth of its value, or half the smallest step of the row.
    const max = Math.max(Math.abs(normed) / 16, given.scales![0]! * 2 ** -10)
    expect(Math.abs(given.codes![i]! * given.scales![0]! - normed)).toBeLessThanOrEqual(max * 1.0001)
  }
})

test('one large token does not reduce the precision of others', async () => {
  const joint = createPseudoRandom([1, 2, 64], 4)
  joint.data.subarray(0, 64).forEach((x, i) => {
    joint.data[i] = x * 60_000
  })
  const alone = { dims: [1, 1, 64], data: joint.data.slice(64) }
  const quantize = (v: Record<string, Value>) => castOperand(operators.quantizeParts(v.x!, v.x!, null)[0]!)
  const both = await evaluate({ x: joint }, quantize)
  expect(both.codes!.slice(64)).toEqual((await evaluate({ x: alone }, quantize)).codes)
})

test('attention to a single token returns its value, rounded to E4M3', async () => {
  const qkv = createPseudoRandom([1, 1, 192], 5)
  const norm = { dims: [64], data: new Float32Array(64).fill(1) }
  const given = await evaluate({ qkv, norm }, (v) => ({
    y: operators.attend({ qkv: v.qkv!, queryNorm: v.norm!, keyNorm: v.norm! }, null, 1e-6),
  }))
  const scale = 2 ** 7
  expect(given.y).toEqual(Float32Array.from(qkv.data.subarray(128), (x) => decodeTable[encode(x * scale)]! / scale))
})
