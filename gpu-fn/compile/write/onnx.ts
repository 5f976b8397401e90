// A graph as ONNX bytes. `onnx.proto` is the specification's own, of onnx 1.18.
import path from 'node:path'
import protobuf from 'protobufjs'
import type { Attribute, Constant, Graph, Node, Port } from '../graph/graph.ts'
import { DATA_TYPES } from '../graph/ops.ts'

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

const EXTERNAL = 1

let modelType: protobuf.Type | undefined

function modelProto(): protobuf.Type {
  modelType ??= protobuf.loadSync(path.join(import.meta.dirname, 'onnx.proto')).lookupType('onnx.ModelProto')
  return modelType
}

/** Serialises a graph as ONNX ModelProto; its weights are references into the file `location` beside it. */
export function encodeModel(graph: Graph, { location, placed }: ExternalData, producerVersion: string): Uint8Array {
  const external = graph.weights.map(({ name, dtype, shape }) => {
    const { offset, bytes } = placed.get(name)!
    const entries = { location, offset: String(offset), length: String(bytes) }
    const externalData = Object.entries(entries).map(([key, value]) => ({ key, value }))
    return { name, dims: shape, dataType: DATA_TYPES[dtype], dataLocation: EXTERNAL, externalData }
  })
  return modelProto()
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

/** A weight as its graph names it: ONNX's TensorProto.DataType, and where its bytes lie in the file `location`. */
export type ExternalTensor = {
  readonly name: string
  readonly type: number
  readonly dims: readonly number[]
  readonly location: string
  readonly offset: number
  readonly bytes: number
}

type InitializerProto = {
  name: string
  dataType: number
  dims: unknown[]
  dataLocation: number
  externalData: { key: string; value: string }[]
}

/** The weights of a serialised graph that lie in another file. Throws an Error for bytes that are no ModelProto. */
export function readExternalTensors(model: Uint8Array): ExternalTensor[] {
  const decoded = modelProto().decode(model) as unknown as { graph?: { initializer: InitializerProto[] } }
  if (!decoded.graph) throw new Error('there is no graph')
  return decoded.graph.initializer
    .filter(({ dataLocation }) => dataLocation === EXTERNAL)
    .map(({ name, dataType, dims, externalData }) => {
      const { location = '', offset, length } = Object.fromEntries(externalData.map(({ key, value }) => [key, value]))
      return { name, type: dataType, dims: dims.map(Number), location, offset: Number(offset), bytes: Number(length) }
    })
}
