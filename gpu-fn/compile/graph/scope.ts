// Where a module's parameters come from. `scope.at('attn')` moves the checkpoint's prefix and the graph's node names together.
import type { Tensor } from '../checkpoint/checkpoint.ts'
import { CheckpointError } from '../checkpoint/error.ts'
import type { Graph, Value } from './graph.ts'
import type { Lowering } from './nn.ts'
import type { PrecisionOf, Storage } from './precision.ts'

/** How a weight's bytes are made from the checkpoint; the writer carries it out. */
export type WeightSource =
  | {
      readonly kind: 'cast'
      readonly tensor: Tensor
      readonly rows: Rows
      readonly storage: 'float32' | 'float16'
      readonly channelsLast: boolean
    }
  | { readonly kind: 'codes'; readonly tensor: Tensor; readonly rows: Rows; readonly block: number }
  | { readonly kind: 'scales' }
  | { readonly kind: 'bytes'; readonly data: Uint8Array }
export type Rows = readonly [start: number, end: number]

/** Notes which tensors of one network were read, so that none is forgotten and none is read twice. */
export class Ledger {
  readonly network: string
  readonly tensors: ReadonlyMap<string, Tensor>
  readonly #unread: Set<string>

  constructor(network: string, tensors: ReadonlyMap<string, Tensor>) {
    this.network = network
    this.tensors = tensors
    this.#unread = new Set(tensors.keys())
  }

  /** `again` is for a graph that shares the tensor with an earlier one. */
  take(name: string, again = false): Tensor {
    const tensor = this.tensors.get(name)
    if (!tensor) throw new CheckpointError(this.network, `tensor ${name} is missing`)
    if (this.#unread.delete(name) === again)
      throw new CheckpointError(this.network, `tensor ${name} is read ${again ? 'for the first time' : 'twice'}`)
    return tensor
  }

  /** Throws a CheckpointError that names the tensors nothing has read. */
  assertComplete(): void {
    if (this.#unread.size === 0) return
    const names = [...this.#unread]
    const more = names.length > 5 ? ` and ${names.length - 5} more` : ''
    throw new CheckpointError(
      this.network,
      `${names.length} left-over tensors that the model does not have: ${names.slice(0, 5).join(', ')}${more}`,
    )
  }
}

export type Build = {
  readonly graph: Graph
  readonly ledger: Ledger
  readonly lowering: Lowering
  readonly precision: PrecisionOf
  /** Columns that share a scale in FP8 weights; null is the whole row. */
  readonly scaleBlock: number | null
  readonly fuseQkv: boolean
  /** Whether streams are results of the graph too, for comparing targets layer by layer. */
  readonly probes: boolean
}

export class Scope {
  readonly build: Build
  readonly path: string

  constructor(build: Build, path = '') {
    this.build = build
    this.path = path
  }

  get graph(): Graph {
    return this.build.graph
  }
  get lowering(): Lowering {
    return this.build.lowering
  }

  at(...parts: (string | number)[]): Scope {
    return new Scope(this.build, [this.path, ...parts].filter((part) => part !== '').join('.'))
  }

  /** Names nodes made from here on after this module. */
  enter(): this {
    this.graph.path = this.path
    return this
  }

  has(name: string): boolean {
    return this.build.ledger.tensors.has(this.#name(name))
  }

  /** Shape of a parameter, without reading it. */
  shape(name: string): readonly number[] {
    const tensor = this.build.ledger.tensors.get(this.#name(name))
    if (!tensor) throw new CheckpointError(this.#network, `tensor ${this.#name(name)} is missing`)
    return tensor.shape
  }

  /** Reads a parameter on purpose without using it; say why where it is called. */
  drop(name: string, expected: readonly number[]): void {
    this.#take(name, expected)
  }

  /**
   * A parameter of exactly this shape, in its storage type. `channelsLast` stores a convolution's [O, I, H, W] as [O, H, W, I]; `again`
   * reads what an earlier graph of the network has read.
   */
  parameter(name: string, expected: readonly number[], { channelsLast = false, again = false } = {}): Value {
    const { tensor, storage, id } = this.#take(name, expected, again)
    if (storage === 'float8e4m3fn')
      throw new CheckpointError(this.#network, `${id} is no linear weight and cannot be FP8`)
    const [o, i, h, w] = expected
    const shape = channelsLast ? [o!, h!, w!, i!] : expected
    const source: WeightSource = { kind: 'cast', tensor, rows: [0, expected[0]!], storage, channelsLast }
    return this.graph.weight(id, storage, shape, source)
  }

  /** Row ranges of a matrix [N, K] or a vector [N], each as its own weight. */
  rows(name: string, ranges: readonly Rows[], expected: readonly number[]): (Value | Quantised)[] {
    const { tensor, storage, id } = this.#take(name, expected)
    const [count, columns = 1] = expected
    return ranges.map((rows) => {
      const part = rows[1] - rows[0] === count ? id : `${id}[${rows[0]}:${rows[1]}]`
      const shape = [rows[1] - rows[0], ...expected.slice(1)]
      if (storage !== 'float8e4m3fn') {
        const source: WeightSource = { kind: 'cast', tensor, rows, storage, channelsLast: false }
        return this.graph.weight(part, storage, shape, source)
      }
      const block = Math.min(this.build.scaleBlock ?? columns, columns)
      const vector = block === columns && this.lowering.rowScales === 'vector'
      const scaleShape = vector ? [shape[0]!] : [shape[0]!, Math.ceil(columns / block)]
      const codes = this.graph.weight(part, storage, shape, {
        kind: 'codes',
        tensor,
        rows,
        block,
      } satisfies WeightSource)
      const scales = this.graph.weight(`${part}.scale`, 'float32', scaleShape, {
        kind: 'scales',
      } satisfies WeightSource)
      return { codes, scales, block }
    })
  }

  #take(name: string, expected: readonly number[], again = false): { tensor: Tensor; storage: Storage; id: string } {
    const id = this.#name(name)
    const tensor = this.build.ledger.take(id, again)
    if (String(tensor.shape) !== String(expected)) {
      throw new CheckpointError(
        this.#network,
        `tensor ${id} is [${tensor.shape.join(', ')}]; the model takes [${expected.join(', ')}]`,
      )
    }
    return { tensor, storage: this.build.precision(this.#network, id, expected), id }
  }

  get #network(): string {
    return this.build.ledger.network
  }

  #name(name: string): string {
    return this.path === '' ? name : `${this.path}.${name}`
  }
}

/** An FP8 matrix: codes [N, K], scales float32 [N], [N, 1] or [N, K / block]; the value is code × scale. */
export type Quantised = { readonly codes: Value; readonly scales: Value; readonly block: number }
export const isQuantised = (weight: Value | Quantised): weight is Quantised => 'codes' in weight
