// A graph as ONNX bytes. `onnx.proto` is the specification's own, of onnx 1.18.
import path from 'node:path'
import protobuf from 'protobufjs'
import type { Attribute, Constant, Graph, Node, Port } from './graph.ts'
import { DATA_TYPES } from './ops.ts'

// Opset 23 has RMSNormalization; IR version 11 is the first that knows it.
const OPSETS = [
  { domain: '', version: 23 },
  { domain: 'com.microsoft', version: 1 },
]
const IR_VERSION = 11

export type ExternalData = {
  readonly location: string
  readonly placed: ReadonlyMap<string, { offset: number; bytes: number }>
}

let modelType: protobuf.Type | undefined

/** Serialises a graph as ONNX ModelProto; its weights are references into the file `location` beside it. */
export function encodeModel(graph: Graph, { location, placed }: ExternalData, producerVersion: string): Uint8Array {
  modelType ??= protobuf.loadSync(path.join(import.meta.dirname, 'onnx.proto')).lookupType('onnx.ModelProto')
  const external = graph.weights.map(({ name, dtype, shape }) => {
    const { offset, bytes } = placed.get(name)!
    const entries = { location, offset: String(offset), length: String(bytes) }
    const externalData = Object.entries(entries).map(([key, value]) => ({ key, value }))
    return { name, dims: shape, dataType: DATA_TYPES[dtype], dataLocation: 1, externalData }
  })
  return modelType
    .encode({
      irVersion: IR_VERSION,
      producerName: 'octet',
      producerVersion,
      opsetImport: opsetsOf(graph),
      graph: {
        name: graph.name,
        node: inRunOrder(graph.nodes).map(nodeProto),
        initializer: [...graph.constants.map(constantProto), ...external],
        input: graph.inputs.map(portProto),
        output: graph.outputs.map(portProto),
      },
    })
    .finish()
}

/** The operators of kernels/ have a domain of their own, which only graphs that use it name. */
function opsetsOf({ nodes }: Graph) {
  const known = new Set(OPSETS.map(({ domain }) => domain))
  const others = new Set(nodes.map(({ domain }) => domain).filter((domain) => !known.has(domain)))
  return [...OPSETS, ...[...others].map((domain) => ({ domain, version: 1 }))]
}

/**
 * onnxruntime runs nodes without inputs of their own, such as DequantizeLinear of a weight, either all at once or each just before its
 * use, by where they stand in the file. First in the file means just before its use, and one widened weight in memory at a time.
 */
function inRunOrder(nodes: readonly Node[]): Node[] {
  const widens = ({ op }: Node) => op === 'DequantizeLinear'
  return [...nodes.filter(widens), ...nodes.filter((node) => !widens(node))]
}

function nodeProto({ name, op, domain, inputs, outputs, attributes }: Node) {
  return {
    name,
    opType: op,
    domain,
    input: inputs,
    output: outputs,
    attribute: Object.entries(attributes).map(([key, value]) => attributeProto(key, value)),
  }
}

// AttributeProto.AttributeType: FLOAT 1, INT 2, STRING 3, INTS 7
function attributeProto(name: string, value: Attribute) {
  if (typeof value === 'number') return { name, type: 2, i: value }
  if (typeof value === 'string') return { name, type: 3, s: Buffer.from(value) }
  if ('float' in value) return { name, type: 1, f: value.float }
  return { name, type: 7, ints: value }
}

const constantProto = ({ name, dtype, shape, data }: Constant) => ({
  name,
  dims: shape,
  dataType: DATA_TYPES[dtype],
  rawData: data,
})

function portProto({ name, dtype, shape }: Port) {
  const dim = shape.map((length) => (typeof length === 'number' ? { dimValue: length } : { dimParam: length }))
  return { name, type: { tensorType: { elemType: DATA_TYPES[dtype], shape: { dim } } } }
}
