// The UnpackFp8 reference implementation, on the CPU, against the compiler's decoder.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { decodeTable } from '../../../gpu-fn/compile/checkpoint/formats/fp8.ts'
import { unpackCodes } from '../../../gpu-fn/compile/checkpoint/formats/fp8-int4.ts'
import { Graph, type Value } from '../../../gpu-fn/compile/graph/graph.ts'
import { encodeModel } from '../../../gpu-fn/compile/write/onnx.ts'
import { operators } from '../../../gpu-fn/kernels/reference.ts'
import { cases } from '../../../gpu-fn/kernels/unpack-fp8/unpack-fp8.ts'
import { openSession } from '../../../gpu-fn/runtime/open-session.ts'

test.each(cases)("$name: the reference matches the compiler's decoder", async (subject) => {
  const graph = new Graph('unpack')
  const inputs: Record<string, Value> = {}
  for (const [name, { dims }] of Object.entries(subject.inputs)) inputs[name] = graph.input(name, 'float32', dims)
  graph.output('codes', subject.build(inputs, operators, (x) => x, { featureMap: (x) => x, planes: (x) => x }).codes!)
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-unpack-'))
  onTestFinished(() => rm(scratch, { recursive: true }))
  const file = path.join(scratch, 'graph.onnx')
  await writeFile(file, encodeModel(graph, { location: '', layout: [] }, '0'))
  const session = await openSession(file, { target: 'cpu' })
  onTestFinished(() => session.release())
  const given = (await session.run(subject.inputs)).codes!.data
  const [packed, groupScales] = ['packed', 'groupScales'].map((name) =>
    Uint8Array.from(subject.inputs[name]!.data as Float32Array),
  )
  const expected = Float32Array.from(unpackCodes(packed!, groupScales!), (code) => decodeTable[code]!)
  expect(given).toEqual(expected)
})
