// An ONNX graph in memory: values with shapes, nodes, weights by reference. Independent of protobuf and onnxruntime.
import type { Dtype } from '../../dtype.ts'

/** A number is a fixed length; a string names a dynamic axis. Axes of the same name have the same length. */
export type Dim = number | string
export type Shape = readonly Dim[]
export type Attribute = number | { readonly float: number } | string | readonly number[]

export type Value = { readonly graph: Graph; readonly name: string; readonly dtype: Dtype; readonly shape: Shape }
export type Node = {
  readonly name: string
  readonly op: string
  readonly domain: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes: Readonly<Record<string, Attribute>>
}
export type Port = { readonly name: string; readonly dtype: Dtype; readonly shape: Shape }
export type Constant = {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly data: Uint8Array
}
/** A weight outside the graph. `source` describes how its bytes are made; only the writer reads it. */
export type Weight<Source = unknown> = {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly source: Source
}

export class GraphError extends Error {
  override name = 'GraphError' as const
}

export class Graph {
  readonly nodes: Node[] = []
  readonly inputs: Port[] = []
  readonly outputs: Port[] = []
  readonly constants: Constant[] = []
  readonly weights: Weight[] = []
  /** Module path in the names of new nodes, so that a profiler shows module paths. */
  path = ''
  readonly #names = new Map<string, number>()
  readonly #constants = new Map<string, Value>()
  readonly #weights = new Map<string, Value>()
  readonly #values = new Map<string, Value>()

  readonly name: string

  constructor(name: string) {
    this.name = name
  }

  input(name: string, dtype: Dtype, shape: Shape): Value {
    this.inputs.push({ name, dtype, shape })
    return this.#keep({ graph: this, name: this.#unique(name), dtype, shape })
  }

  /** Makes a value an output of the graph. Throws `GraphError` if the name is taken. */
  output(name: string, value: Value): void {
    if (this.#names.has(name)) throw new GraphError(`an output cannot be named ${name}: the name is taken`)
    this.#names.set(name, 1)
    this.nodes.push({ name, op: 'Identity', domain: '', inputs: [value.name], outputs: [name], attributes: {} })
    this.outputs.push({ name, dtype: value.dtype, shape: value.shape })
  }

  /** Appends a node and returns its results; null is an omitted optional input or output. */
  node(
    op: string,
    inputs: readonly (Value | null)[],
    results: readonly (Pick<Value, 'dtype' | 'shape'> | null)[],
    attributes: Record<string, Attribute> = {},
    domain = '',
  ): Value[] {
    const name = this.#unique(this.path ? `${this.path}/${op}` : op)
    const outputs = results.map((result, i) => (result ? (results.length > 1 ? `${name}:${i}` : name) : ''))
    this.nodes.push({ name, op, domain, inputs: inputs.map((input) => input?.name ?? ''), outputs, attributes })
    return outputs.map((output, i) =>
      this.#keep({ graph: this, name: output, dtype: 'float32', shape: [], ...results[i] }),
    )
  }

  /** A small tensor inside the graph file; equal ones are stored once. */
  constant(dtype: Dtype, shape: readonly number[], data: Uint8Array): Value {
    const key = `${dtype} ${shape} ${Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('latin1')}`
    let value = this.#constants.get(key)
    if (!value) {
      const name = `constant_${this.constants.length}`
      this.constants.push({ name, dtype, shape, data })
      value = this.#keep({ graph: this, name, dtype, shape })
      this.#constants.set(key, value)
    }
    return value
  }

  /** A weight by reference; the same value for the same name. */
  weight(name: string, dtype: Dtype, shape: readonly number[], source: unknown): Value {
    let value = this.#weights.get(name)
    if (!value) {
      this.weights.push({ name, dtype, shape, source })
      value = this.#keep({ graph: this, name, dtype, shape })
      this.#weights.set(name, value)
    }
    return value
  }

  /** Looks up an input, constant, weight or node output by name. Throws `GraphError` if it does not exist. */
  value(name: string): Value {
    const value = this.#values.get(name)
    if (!value) throw new GraphError(`${this.name} has no value named ${name}`)
    return value
  }

  #keep(value: Value): Value {
    if (value.name !== '') this.#values.set(value.name, value)
    return value
  }

  #unique(name: string): string {
    const count = this.#names.get(name) ?? 0
    this.#names.set(name, count + 1)
    return count === 0 ? name : `${name}_${count}`
  }
}
