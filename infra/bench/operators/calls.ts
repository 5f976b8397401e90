// FP8 operator calls in a step graph: shapes, and call counts per forward pass.
import type { Attribute, Graph, Node, Shape } from '../../../gpu-fn/compile/graph/graph.ts'
import { KERNEL_DOMAIN } from '../../../gpu-fn/compile/lower/kernels.ts'
import { pairNodes } from '../../../gpu-fn/compile/write/pair-nodes.ts'
import type { Dtype } from '../../../gpu-fn/dtype.ts'

export type CallTensor = { readonly dtype: Dtype; readonly shape: readonly number[] }
/** An operator call. Absent optional tensors are null. */
export type Call = {
  readonly op: string
  readonly inputs: readonly (CallTensor | null)[]
  readonly outputs: readonly (CallTensor | null)[]
  readonly attributes: Readonly<Record<string, number | readonly number[]>>
  /** Producer of the leading inputs, for an operator with an internal input layout. */
  readonly after?: Call
}
/** `layers`: module paths of the calls, without block indices. */
export type CountedCall = Call & { readonly count: number; readonly layers: readonly string[] }
/** Lengths of a graph's symbolic axes. */
export type Axes = Readonly<Record<string, number>>

/** The layout between QkNormQuantize and Attention: gpu-fn/kernels/attention/tiles.cuh. */
const HEAD_DEPTH = 64
const TILE = 128
const VALUE_SCALE_BYTES = 4

/** Distinct calls of a graph after node pairing, in order of first occurrence. Attributes do not distinguish calls. */
export function countCalls(graph: Graph, axes: Axes): CountedCall[] {
  const producers = new Map(graph.nodes.flatMap((node) => node.outputs.map((output) => [output, node] as const)))
  const counted = new Map<string, CountedCall>()
  for (const node of pairNodes(graph)) {
    if (node.domain !== KERNEL_DOMAIN) continue
    const call = callOf(graph, node, axes, producers)
    const key = JSON.stringify([call.op, call.inputs, call.outputs])
    const { count, layers } = counted.get(key) ?? { count: 0, layers: [] }
    counted.set(key, { ...call, count: count + 1, layers: [...new Set([...layers, layerOf(node)])] })
  }
  return [...counted.values()]
}

function callOf(graph: Graph, node: Node, axes: Axes, producers: ReadonlyMap<string, Node>): Call {
  const tensorsOf = (names: readonly string[]) =>
    names.map((name) => {
      if (name === '') return null
      const { dtype, shape } = graph.value(name)
      return { dtype, shape: lengthsOf(shape, axes) }
    })
  const attributes = Object.fromEntries(
    Object.entries(node.attributes).map(([name, value]) => [name, numberOf(name, value)]),
  )
  const about = { op: node.op, attributes }
  if (node.op === 'Attention') {
    const after = callOf(graph, producers.get(node.inputs[0]!)!, axes, producers)
    const inputs = [...after.outputs, ...tensorsOf(node.inputs.slice(after.outputs.length))]
    return { ...about, inputs, outputs: tensorsOf(node.outputs), after }
  }
  const inputs = tensorsOf(node.inputs)
  return {
    ...about,
    inputs,
    outputs: node.op === 'QkNormQuantize' ? describeAttentionLayout(inputs) : tensorsOf(node.outputs),
  }
}

/** Outputs of QkNormQuantize: queries, keys, values, logit factor. Inputs: image [B, S, 3D], and text [B, L, 3D or 2D] or null. */
function describeAttentionLayout([image, text]: readonly (CallTensor | null)[]): CallTensor[] {
  const [batch, length, width] = image!.shape as [number, number, number]
  const heads = width / 3 / HEAD_DEPTH
  const tokens = length + (text?.shape[1] ?? 0)
  const queries = text?.shape[2] === width ? tokens : length
  const tiles = Math.ceil(tokens / TILE)
  const createByteTensor = (...shape: number[]): CallTensor => ({ dtype: 'uint8', shape: [batch, heads, ...shape] })
  return [
    createByteTensor(Math.ceil(queries / TILE) * TILE, HEAD_DEPTH),
    createByteTensor(tiles, TILE * HEAD_DEPTH),
    createByteTensor(tiles, TILE * HEAD_DEPTH + VALUE_SCALE_BYTES),
    { dtype: 'float32', shape: [1] },
  ]
}

/** Resolves symbolic axes. The name of a concatenated axis is a sum, such as S+L. */
function lengthsOf(shape: Shape, axes: Axes): number[] {
  return shape.map((dim) => {
    if (typeof dim === 'number') return dim
    const lengths = dim.split('+').map((name) => axes[name])
    if (lengths.includes(undefined)) throw new Error(`the length of axis ${dim} is unknown`)
    return lengths.reduce<number>((sum, length) => sum + length!, 0)
  })
}

function numberOf(name: string, value: Attribute): number | readonly number[] {
  if (typeof value === 'string') throw new Error(`attribute ${name} is a string; FP8 operators take only numbers`)
  return typeof value === 'object' && 'float' in value ? value.float : value
}

/** Operators on the concatenated tokens of both streams. */
const JOINT = ['QkNormQuantize', 'Attention', 'QuantizeParts']

/**
 * Module paths from the names of a node's outputs, such as joint_blocks.3.x_block.attn.qkv/Linear, without the block prefix. For operators
 * on both streams: the name of the attention module.
 */
function layerOf({ outputs, op }: Node): string {
  const paths = outputs.filter(Boolean).map((name) => name.replace(/\/[^/]*$/, '').replace(/^joint_blocks\.\d+\./, ''))
  const layer = [...new Set(paths)].join(' and ')
  return JOINT.includes(op) ? (/\battn2?\b/.exec(layer)?.[0] ?? layer) : layer
}
