// Background load on the GPU: multiplies matrices until the process is killed. Prints a line after the first run.
import fs from 'node:fs/promises'
import path from 'node:path'
import { Graph, type Value } from '../../gpu-fn/compile/graph/graph.ts'
import * as ops from '../../gpu-fn/compile/graph/ops.ts'
import { encodeModel } from '../../gpu-fn/compile/write/onnx.ts'
import { drawGaussianNoise } from '../../gpu-fn/pipeline/noise.ts'
import { openSession } from '../../gpu-fn/runtime/open-session.ts'
import { makeScratch } from '../../infra/command/scratch.ts'

const SIDE = 4096
/** Products per run, about 13 ms on an H200: longer than a time slice of the GPU. */
const PRODUCTS = 64

const graph = new Graph('load')
const [first, weight] = ['first', 'weight'].map((name) =>
  ops.cast(graph.input(name, 'float32', [SIDE, SIDE]), 'float16'),
)
const product = Array.from({ length: PRODUCTS }).reduce<Value>((x) => ops.matmulTransposed(x, weight!), first!)
graph.output('product', product)

const scratch = makeScratch('octet-gpu-load-')
const file = path.join(scratch.directory, 'products.onnx')
await fs.writeFile(file, encodeModel(graph, { location: '', layout: [] }, '0'))
const session = await openSession(file, { target: 'cuda' })
await scratch.remove()

// This scale preserves the magnitude of values over successive products.
const factor = { data: drawGaussianNoise(1, SIDE * SIDE).map((x) => x / Math.sqrt(SIDE)), dims: [SIDE, SIDE] }
for (let runs = 0; ; runs++) {
  await session.run({ first: factor, weight: factor }, { only: [] })
  if (runs === 0) console.log('running')
}
