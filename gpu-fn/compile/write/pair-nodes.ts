// Fusion of independent nodes of the same FP8 operator into pairs. A transformer block applies each operator to the image tokens and to the
// far fewer text tokens, which alone occupy a tenth of a GPU. The operators in kernels/ process both in one call.
import type { Attribute, Graph, Node } from '../graph/graph.ts'

/** Input and output counts per set. `equalAxes`: axes of the first input with equal lengths in both sets, as required by the kernel. */
type PairedNode = { readonly inputs: number; readonly outputs: number; readonly equalAxes: readonly number[] }

/**
 * Operators with an optional second set of inputs and outputs (kernels/include/operators.h). The two products of a pair may have different
 * sizes.
 */
const PAIRED: Readonly<Record<string, PairedNode>> = {
  Linear: { inputs: 5, outputs: 1, equalAxes: [] },
  ModulateQuantize: { inputs: 4, outputs: 5, equalAxes: [0, -1] },
  GeluQuantize: { inputs: 1, outputs: 2, equalAxes: [-1] },
}

/** UnpackFp8 does not count: it may precede the product of only one stream. */
const isKernel = ({ domain, op }: Node) => domain === 'octet' && op !== 'UnpackFp8'

/**
 * Fuses pairs of a graph's FP8 operator nodes and returns equivalent nodes in topological order. Depth is the number of FP8 operators on the longest
 * path from the graph's inputs; FP8 operators of equal depth are independent.
 */
export function pairNodes(graph: Graph): readonly Node[] {
  const { nodes } = graph
  const depths = depthsOf(nodes)
  const groups = Map.groupBy(nodes.filter(isPairable), (node) => `${depths.get(node)} ${kindOf(node, graph)}`)
  const merged = new Map<Node, Node | null>()
  for (const group of groups.values()) {
    // Pairs the first node with the last: in blocks with a second image attention, its nodes precede the text nodes.
    for (let i = 0; 2 * i + 1 < group.length; i++) {
      const [first, second] = [group[i]!, group.at(-1 - i)!]
      merged.set(first, pair(first, second)).set(second, null)
    }
  }
  if (merged.size === 0) return nodes
  // Sort by depth; within a depth, FP8 operators come first.
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
const encodePresence = (names: readonly string[]) => names.map((name) => (name ? 1 : 0)).join('')

/**
 * Nodes with equal keys can be paired. The key consists of operator, lengths of the equal axes, present inputs and outputs, and scalar
 * attributes.
 */
function kindOf({ op, inputs, outputs, attributes }: Node, graph: Graph): string {
  const { shape } = graph.value(inputs[0]!)
  const lengths = PAIRED[op]!.equalAxes.map((axis) => shape.at(axis))
  const numbers = Object.entries(attributes).filter(([, value]) => !Array.isArray(value))
  return JSON.stringify([op, lengths, encodePresence(inputs), encodePresence(outputs), numbers])
}

/** Fuses two nodes. List attributes of the second node get the prefix `second_`. */
function pair(first: Node, second: Node): Node {
  const { inputs, outputs } = PAIRED[first.op]!
  const pad = (names: readonly string[], length: number) => Array.from({ length }, (_, i) => names[i] ?? '')
  const offsets = Object.entries(second.attributes).filter(([, value]) => Array.isArray(value))
  const prefixed: [string, Attribute][] = offsets.map(([name, value]) => [`second_${name}`, value])
  return {
    ...first,
    inputs: [...pad(first.inputs, inputs), ...second.inputs],
    outputs: [...pad(first.outputs, outputs), ...second.outputs],
    attributes: { ...first.attributes, ...Object.fromEntries(prefixed) },
  }
}
