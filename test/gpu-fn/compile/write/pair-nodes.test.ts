import path from 'node:path'
import { expect, test } from 'vitest'
import { type Attribute, Graph, type Node, type Value } from '../../../../gpu-fn/compile/graph/graph.ts'
import { chooseLowerings } from '../../../../gpu-fn/compile/lower/lowerings.ts'
import { pairNodes } from '../../../../gpu-fn/compile/write/pair-nodes.ts'
import { buildModel } from '../../../../gpu-fn/models/sd35/build.ts'
import { openCheckpoint } from '../../../../gpu-fn/models/sd35/sd35.ts'
import { writeSparseCheckpoint } from '../../../support/checkpoints/real-headers.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()

async function stepNodes(name: 'large' | 'medium', target: 'cuda' | 'cuda-fp8'): Promise<Graph> {
  const paths = await writeSparseCheckpoint(path.join(scratch.directory, `${name}-${target}`), name, 'single-file')
  const model = await buildModel(await openCheckpoint(paths), paths, { tier: 'fp8' }, chooseLowerings(target))
  return model.graphs.get('transformer')!
}

/** The first node that violates topological order, if any. */
function outOfOrder({ inputs, constants, weights }: Graph, nodes: readonly Node[]): Node | undefined {
  const known = new Set(['', ...[...inputs, ...constants, ...weights].map(({ name }) => name)])
  return nodes.find((node) => {
    const missing = node.inputs.some((input) => !known.has(input))
    for (const output of node.outputs) known.add(output)
    return missing
  })
}

const namesOf = (nodes: readonly Node[], list: 'inputs' | 'outputs') =>
  nodes
    .flatMap((node) => node[list])
    .filter(Boolean)
    .sort()
const kernel = (x: Value, op: string, attributes: Record<string, Attribute> = {}, inputs: (Value | null)[] = [x]) =>
  x.graph.node(op, inputs, [{ dtype: x.dtype, shape: x.shape }], attributes, 'octet')[0]!

test('in Large, image and text nodes are paired in each block except the last, which processes the image only', async () => {
  const graph = await stepNodes('large', 'cuda-fp8')
  const nodes = pairNodes(graph)
  const count = (op: string, block: number) =>
    nodes.filter((node) => node.op === op && node.name.startsWith(`joint_blocks.${block}.`)).length
  expect([count('Linear', 5), count('ModulateQuantize', 5), count('GeluQuantize', 5)]).toEqual([4, 2, 1])
  expect([count('Linear', 37), count('ModulateQuantize', 37), count('GeluQuantize', 37)]).toEqual([4, 2, 1])
  const products = nodes.filter(({ op, name }) => op === 'Linear' && name.startsWith('joint_blocks.5.'))
  for (const { inputs } of products) {
    expect(inputs[2]).toContain('.x_block.')
    expect(inputs[7]).toBe(inputs[2]!.replace('.x_block.', '.context_block.'))
  }
})

test.each(['large', 'medium'] as const)(
  'the nodes of %s stay in topological order and keep all inputs and outputs',
  async (name) => {
    const graph = await stepNodes(name, 'cuda-fp8')
    const nodes = pairNodes(graph)
    expect(nodes.length).toBeLessThan(graph.nodes.length)
    expect(outOfOrder(graph, nodes)).toBeUndefined()
    expect(namesOf(nodes, 'inputs')).toEqual(namesOf(graph.nodes, 'inputs'))
    expect(namesOf(nodes, 'outputs')).toEqual(namesOf(graph.nodes, 'outputs'))
  },
)

test('nodes of target cuda are unchanged', async () => {
  const graph = await stepNodes('medium', 'cuda')
  expect(pairNodes(graph)).toBe(graph.nodes)
})

test('dependent nodes, nodes with different scalar attributes and nodes with different inputs are not paired', () => {
  const graph = new Graph('test')
  const x = graph.input('x', 'float16', [1, 2, 8])
  const chain = kernel(kernel(x, 'GeluQuantize', { factor: { float: 16 } }), 'GeluQuantize', { factor: { float: 16 } })
  const other = kernel(x, 'GeluQuantize', { factor: { float: 1 } })
  kernel(x, 'ModulateQuantize', {}, [x, x])
  kernel(x, 'ModulateQuantize', {}, [x, x, x])
  expect([chain, other]).toHaveLength(2)
  expect(pairNodes(graph)).toBe(graph.nodes)
})

test('pairs products of any sizes, and other operators only with the equal axes that their kernels require', () => {
  const graph = new Graph('test')
  const inputs = [
    [1, 'S', 8],
    [1, 'T', 16],
    [2, 'U', 8],
  ].map((shape, i) => graph.input(`x${i}`, 'float16', shape))
  for (const op of ['GeluQuantize', 'ModulateQuantize', 'Linear']) for (const x of inputs) kernel(x, op)
  const inputsOf = (op: string) => pairNodes(graph).flatMap((node) => (node.op === op ? [node.inputs] : []))
  // The kernel of GeluQuantize does not distinguish samples: it processes the rows of all samples in one dimension.
  expect(inputsOf('GeluQuantize')).toEqual([['x0', 'x2'], ['x1']])
  expect(inputsOf('ModulateQuantize')).toEqual([['x0'], ['x1'], ['x2']])
  expect(inputsOf('Linear')).toEqual([['x0', '', '', '', '', 'x2'], ['x1']])
})

test('products are paired even if only one of their weights is unpacked', () => {
  const graph = new Graph('test')
  const [x, y] = ['x', 'y'].map((name) => graph.input(name, 'float16', [1, 2, 8])) as [Value, Value]
  const [image, text] = [x, y].map((value) => kernel(value, 'GeluQuantize')) as [Value, Value]
  const codes = kernel(image, 'UnpackFp8')
  for (const [input, weight] of [[image, codes] as const, [text, text] as const])
    kernel(kernel(input, 'Linear', {}, [input, weight]), 'GeluQuantize')
  const nodes = pairNodes(graph)
  expect(nodes.map(({ op }) => op)).toEqual(['GeluQuantize', 'UnpackFp8', 'Linear', 'GeluQuantize'])
  expect(outOfOrder(graph, nodes)).toBeUndefined()
})

test('a pair appends the inputs and outputs of the second node and prefixes its list attributes', () => {
  const graph = new Graph('test')
  const [x, y] = ['x', 'y'].map((name) => graph.input(name, 'float16', [1, 2, 8])) as [Value, Value]
  const options = { epsilon: { float: 1 } }
  const first = kernel(x, 'ModulateQuantize', { ...options, shifts: [0] }, [x, x])
  const second = kernel(y, 'ModulateQuantize', { ...options, shifts: [8] }, [y, y])
  kernel(first, 'Attention', {}, [first, second])
  const [pair, attention] = pairNodes(graph)
  expect(pair!.inputs).toEqual(['x', 'x', '', '', 'y', 'y'])
  expect(pair!.outputs).toEqual([first.name, '', '', '', '', second.name])
  expect(pair!.attributes).toEqual({ ...options, shifts: [0], second_shifts: [8] })
  expect(attention!.inputs).toEqual([first.name, second.name])
})
