import { expect, test } from 'vitest'
import { Graph, GraphError } from '../../../../gpu-fn/compile/graph/graph.ts'

test('an output must have a unique name', () => {
  const graph = new Graph('names')
  const x = graph.input('x', 'float32', [2])
  graph.output('y', x)
  for (const taken of ['x', 'y']) {
    const again = () => graph.output(taken, x)
    expect(again).toThrow(GraphError)
    expect(again).toThrow(`an output cannot be named ${taken}`)
  }
  expect(graph.outputs.map(({ name }) => name)).toEqual(['y'])
})
