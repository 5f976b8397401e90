// Pairs of independent nodes of one FP8 operator. A transformer block applies each operator to the image's tokens and to the far fewer
// tokens of the text, which alone occupy a tenth of a GPU. The operators in kernels/ process two inputs at once.
import type { Attribute, Node } from '../graph/graph.ts'

/** Operators that take a second set of inputs behind the first (kernels/include/operators.h): lengths of a set of inputs and of outputs. */
const PAIRED: Readonly<Record<string, { readonly inputs: number; readonly outputs: number }>> = {
  Linear: { inputs: 5, outputs: 1 },
  ModulateQuantize: { inputs: 4, outputs: 5 },
  GeluQuantize: { inputs: 1, outputs: 2 },
}

/** Only some weights need UnpackFp8, often of one stream only, so it does not separate the operators around it from their counterparts. */
const isKernel = ({ domain, op }: Node) => domain === 'octet' && op !== 'UnpackFp8'

/**
 * Nodes of the same results with pairs of FP8 operators as one node, in an order in which each node follows its inputs. Nodes of equal
 * depth are independent: depth is the number of FP8 operators on the longest path from the graph's inputs.
 */
export function pairNodes(nodes: readonly Node[]): readonly Node[] {
  const depths = depthsOf(nodes)
  const groups = Map.groupBy(nodes.filter(isPairable), (node) => `${depths.get(node)} ${kindOf(node)}`)
  const merged = new Map<Node, Node | null>()
  for (const group of groups.values()) {
    // The first with the last: a block with a second attention of the image has its nodes before those of the text.
    for (let i = 0; 2 * i + 1 < group.length; i++) {
      const [first, second] = [group[i]!, group.at(-1 - i)!]
      merged.set(first, pair(first, second)).set(second, null)
    }
  }
  if (merged.size === 0) return nodes
  // FP8 operators of a depth follow all nodes of smaller depths, and all other nodes of their own depth follow them.
  const rank = (node: Node) => 2 * depths.get(node)! + (isKernel(node) ? 0 : 1)
  return nodes
    .toSorted((a, b) => rank(a) - rank(b))
    .flatMap((node) => {
      const replacement = merged.get(node)
      return replacement === null ? [] : [replacement ?? node]
    })
}

function depthsOf(nodes: readonly Node[]): Map<Node, number> {
  const values = new Map<string, number>()
  return new Map(
    nodes.map((node) => {
      const depth = Math.max(0, ...node.inputs.map((input) => values.get(input) ?? 0)) + (isKernel(node) ? 1 : 0)
      for (const output of node.outputs) if (output) values.set(output, depth)
      return [node, depth]
    }),
  )
}

const isPairable = (node: Node) => isKernel(node) && node.op in PAIRED
const present = (names: readonly string[]) => names.map((name) => (name ? 1 : 0)).join('')

/** The key of nodes that can be paired: operator, present inputs and outputs, scalar attributes. */
function kindOf({ op, inputs, outputs, attributes }: Node): string {
  const numbers = Object.entries(attributes).filter(([, value]) => !Array.isArray(value))
  return JSON.stringify([op, present(inputs), present(outputs), numbers])
}

/** One node for two. Offsets of the second have the prefix `second_`. */
function pair(first: Node, second: Node): Node {
  const { inputs, outputs } = PAIRED[first.op]!
  const padded = (names: readonly string[], length: number) => Array.from({ length }, (_, i) => names[i] ?? '')
  const offsets = Object.entries(second.attributes).filter(([, value]) => Array.isArray(value))
  const prefixed: [string, Attribute][] = offsets.map(([name, value]) => [`second_${name}`, value])
  return {
    ...first,
    inputs: [...padded(first.inputs, inputs), ...second.inputs],
    outputs: [...padded(first.outputs, outputs), ...second.outputs],
    attributes: { ...first.attributes, ...Object.fromEntries(prefixed) },
  }
}
