// Compares every FP8 operator on the GPU with its definition (gpu-fn/kernels/reference.ts) on the CPU.
import fs from 'node:fs/promises'
import path from 'node:path'
import { Graph, type Value } from '../../gpu-fn/compile/graph/graph.ts'
import * as ops from '../../gpu-fn/compile/graph/ops.ts'
import type { Lowering } from '../../gpu-fn/compile/graph/scope.ts'
import { cpu } from '../../gpu-fn/compile/lower/cpu.ts'
import { cuda } from '../../gpu-fn/compile/lower/cuda.ts'
import type { Fp8Operators } from '../../gpu-fn/compile/lower/cuda-fp8.ts'
import { kernelOperators } from '../../gpu-fn/compile/lower/kernels.ts'
import { encodeModel } from '../../gpu-fn/compile/write/onnx.ts'
import type { Case, Narrow } from '../../gpu-fn/kernels/definition/test-case.ts'
import { CASES, operators as definition } from '../../gpu-fn/kernels/reference.ts'
import { findKernels } from '../../gpu-fn/runtime/fp8-kernels.ts'
import { openSession, type SessionOptions } from '../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../gpu-fn/runtime/session.ts'
import { makeScratch } from '../../infra/command/scratch.ts'

/** The operators of the cases. */
export const OPERATORS = [...new Set(CASES.map(operatorOf))]

export type KernelsCheckOptions = {
  /** Operators to omit. */
  readonly except: readonly string[]
}

/** Prints the errors of every case on the GPU's native and portable paths. Throws if one is too large. */
export async function compareKernels({ except }: KernelsCheckOptions): Promise<void> {
  const { library, reason } = findKernels()
  if (library === null) throw new Error(`the kernels cannot run on this machine: ${reason}`)
  await using temporary = makeScratch('octet-kernels-')
  const scratch = temporary.directory
  let failures = 0
  const cases = CASES.filter((subject) => !except.includes(operatorOf(subject)))
  for (const subject of cases) {
    const expected = await run(scratch, subject, buildCase(subject, definition, roundThroughFloat16, cpu), {
      target: 'cpu',
    })
    for (const portable of [false, true]) {
      const label = `${subject.name}${portable ? ', portable' : ''}`
      const options: SessionOptions = { target: 'cuda-fp8', kernels: library }
      const graph = buildCase(subject, kernelOperators, roundToFloat16, cuda)
      const given = await run(scratch, subject, portable ? removeHopperOperators(graph) : graph, options).catch(
        (error: Error) => error,
      )
      const problem = given instanceof Error ? given.message : compare(subject, given, expected)
      console.log(`${problem.startsWith('ok') ? '  ' : '✗ '}${label}: ${problem}`)
      if (!problem.startsWith('ok')) failures++
    }
  }
  if (failures > 0) throw new Error(`${failures} results are out of tolerance`)
  console.log(`all ${cases.length} cases pass`)
}

/** The first operator in the name of a case. */
function operatorOf({ name }: Case): string {
  return name.split(/[ ,]/, 1)[0]!
}

const roundToFloat16: Narrow = (x) => ops.cast(x, 'float16')
const roundThroughFloat16: Narrow = (x) => ops.cast(ops.cast(x, 'float16'), 'float32')

function buildCase(subject: Case, operators: Fp8Operators, half: Narrow, layout: Lowering): Graph {
  const graph = new Graph('kernel')
  const inputs: Record<string, Value> = {}
  for (const [name, { dims }] of Object.entries(subject.inputs)) inputs[name] = graph.input(name, 'float32', dims)
  for (const [name, value] of Object.entries(subject.build(inputs, operators, half, layout))) graph.output(name, value)
  return graph
}

/** The graph with the portable kernels, which Hopper supports as well. */
function removeHopperOperators(graph: Graph): Graph {
  const specialized = ['Linear', 'Attention']
  for (const [i, node] of graph.nodes.entries())
    if (specialized.includes(node.op)) graph.nodes[i] = { ...node, attributes: { ...node.attributes, portable: 1 } }
  return graph
}

async function run(scratch: string, subject: Case, graph: Graph, options: SessionOptions) {
  const file = path.join(scratch, 'case.onnx')
  await fs.writeFile(file, encodeModel(graph, { location: '', layout: [] }, '0'))
  const session = await openSession(file, { ...options, binding: 'native' })
  try {
    return await session.run(subject.inputs)
  } finally {
    await session.release()
  }
}

/** Relative errors ‖given − expected‖ / ‖expected‖, in total and in the worst row. Both must have NaN in the same rows. */
function compare({ tolerance }: Case, given: Record<string, Tensor>, expected: Record<string, Tensor>): string {
  const words: string[] = []
  let good = true
  for (const [name, { data: want, dims }] of Object.entries(expected)) {
    const got = given[name]!.data as Float32Array
    const width = dims.at(-1)!
    const sums = { difference: 0, norm: 0 }
    let worst = 0
    for (let start = 0; start < want.length; start += width) {
      const [a, b] = [got.subarray(start, start + width), (want as Float32Array).subarray(start, start + width)]
      const [difference, norm] = [computeDistance(a, b), computeDistance(b)]
      if (Number.isNaN(norm) && Number.isNaN(difference) && a.some(Number.isNaN)) continue
      sums.difference += difference
      sums.norm += norm
      worst = Math.max(worst, norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm))
      if (Number.isNaN(difference)) worst = Number.NaN
    }
    const all = Math.sqrt(sums.difference / sums.norm)
    good &&= all <= tolerance.all && worst <= tolerance.row
    words.push(`${name} ${all.toExponential(1)}, worst row ${worst.toExponential(1)}`)
  }
  return `${good ? 'ok' : 'wrong'}: ${words.join('; ')}`
}

function computeDistance(a: Float32Array, b?: Float32Array): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += (a[i]! - (b?.[i] ?? 0)) ** 2
  return sum
}
