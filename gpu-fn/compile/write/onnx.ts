// Encodes a graph as ONNX. `onnx.proto` is from the specification, onnx 1.18.
import path from 'node:path'
import protobuf from 'protobufjs'
import { computeTensorBytes, ONNX_DATA_TYPES } from '../../dtype.ts'
import type { StoredTensor } from '../../manifest.ts'
import type { Attribute, Constant, Graph, Node, Port } from '../graph/graph.ts'
import { pairNodes } from './pair-nodes.ts'

// Opset 23 has RMSNormalization and requires IR version 11.
const OPSETS = [
  { domain: '', version: 23 },
  { domain: 'com.microsoft', version: 1 },
]
const IR_VERSION = 11

/** A weights file beside the graph, and its layout. */
type ExternalData = { readonly location: string; readonly layout: readonly StoredTensor[] }

const EXTERNAL = 1

let modelType: protobuf.Type | undefined

function loadModelType(): protobuf.Type {
  modelType ??= protobuf.loadSync(path.join(import.meta.dirname, 'onnx.proto')).lookupType('onnx.ModelProto')
  return modelType
}

/** Serializes a graph as ONNX ModelProto; its weights are references into the file `location` beside it. */
export function encodeModel(graph: Graph, { location, layout }: ExternalData, producerVersion: string): Uint8Array {
  const offsets = new Map(layout.map(({ name, offset }) => [name, offset]))
  const external = graph.weights.map(({ name, dtype, shape }) => {
    const entries = { location, offset: String(offsets.get(name)!), length: String(computeTensorBytes(dtype, shape)) }
    const externalData = Object.entries(entries).map(([key, value]) => ({ key, value }))
    return { name, dims: shape, dataType: ONNX_DATA_TYPES[dtype], dataLocation: EXTERNAL, externalData }
  })
  return loadModelType()
    .encode({
      irVersion: IR_VERSION,
      producerName: 'octet',
      producerVersion,
      opsetImport: opsetsOf(graph),
      graph: {
        name: graph.name,
        node: sortForExecution(pairNodes(graph)).map(encodeNode),
        initializer: [...graph.constants.map(encodeConstant), ...external],
        input: graph.inputs.map(encodePort),
        output: graph.outputs.map(encodePort),
      },
    })
    .finish()
}

/** Adds the domain of the operators of kernels/ to graphs that use it. */
function opsetsOf({ nodes }: Graph) {
  const known = new Set(OPSETS.map(({ domain }) => domain))
  const others = new Set(nodes.map(({ domain }) => domain).filter((domain) => !known.has(domain)))
  return [...OPSETS, ...[...others].map((domain) => ({ domain, version: 1 }))]
}

/**
 * onnxruntime runs nodes whose inputs are constants, such as DequantizeLinear of a weight, either all at once or each just before its use,
 * depending on their position in the file. If they come first, each runs just before its use, with one widened weight in memory at a time.
 */
function sortForExecution(nodes: readonly Node[]): Node[] {
  const producers = new Map(nodes.flatMap((node) => node.outputs.map((output) => [output, node] as const)))
  const first = new Set<Node>()
  const addWithInputs = (node: Node) => {
    for (const input of node.inputs) {
      const producer = producers.get(input)
      if (producer && !first.has(producer)) addWithInputs(producer)
    }
    first.add(node)
  }
  for (const node of nodes) if (node.op === 'DequantizeLinear') addWithInputs(node)
  return [...first, ...nodes.filter((node) => !first.has(node))]
}

function encodeNode({ name, op, domain, inputs, outputs, attributes }: Node) {
  return {
    name,
    opType: op,
    domain,
    input: inputs,
    output: outputs,
    attribute: Object.entries(attributes).map(([key, value]) => encodeAttribute(key, value)),
  }
}

// AttributeProto.AttributeType: FLOAT 1, INT 2, STRING 3, INTS 7
function encodeAttribute(name: string, value: Attribute) {
  if (typeof value === 'number') return { name, type: 2, i: value }
  if (typeof value === 'string') return { name, type: 3, s: Buffer.from(value) }
  if ('float' in value) return { name, type: 1, f: value.float }
  return { name, type: 7, ints: value }
}

const encodeConstant = ({ name, dtype, shape, data }: Constant) => ({
  name,
  dims: shape,
  dataType: ONNX_DATA_TYPES[dtype],
  rawData: data,
})

function encodePort({ name, dtype, shape }: Port) {
  const dim = shape.map((length) => (typeof length === 'number' ? { dimValue: length } : { dimParam: length }))
  return { name, type: { tensorType: { elemType: ONNX_DATA_TYPES[dtype], shape: { dim } } } }
}
