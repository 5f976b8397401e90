// The parameters of a module, and the target's layers. `scope.at('attn')` extends the checkpoint's prefix and the node names of the graph.

import type { Dtype } from '../../dtype.ts'
import type { Target } from '../../manifest.ts'
import { CheckpointError } from '../checkpoint/error.ts'
import { GROUP, GROUP_BYTES } from '../checkpoint/formats/fp8-int4.ts'
import { blockOf } from '../checkpoint/formats/integer-blocks.ts'
import type { Tensor } from '../checkpoint/tensor.ts'
import type { Graph, Value } from './graph.ts'
import type {
  Activation,
  ConvolutionOptions,
  FeatureMap,
  GroupNormOptions,
  JointAttentionOptions,
  Matrix,
  Modulation,
  ModulationVector,
  Operand,
  PackedWeight,
  QuantizedMatrix,
  ResidualBranch,
  Stream,
} from './layer-types.ts'
import type { Ledger } from './ledger.ts'
import type { Precision, Storage } from './precision.ts'
import type { Rows, WeightSource } from './weight-source.ts'

export type Build = {
  readonly graph: Graph
  readonly ledger: Ledger
  readonly lowering: Lowering
  readonly precision: Precision
  /** Whether residual streams are outputs of the graph, for comparing targets layer by layer. */
  readonly probes: boolean
}

type IntegerWeight = { readonly tensor: Tensor; readonly rows: Rows; readonly storage: 'int8' | 'int4' }

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

  /** Names subsequent nodes after this module. */
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

  /** Whether target cuda-fp8 multiplies this parameter in FP8. */
  isNative(name: string): boolean {
    return this.build.precision.isNative(this.#network, this.#name(name))
  }

  /** Marks a parameter as read that the model does not use. Callers state the reason. */
  drop(name: string, expected: readonly number[]): void {
    this.#take(name, expected)
  }

  /**
   * A parameter of exactly this shape, in its storage type. `channelsLast` stores a convolution's [O, I, H, W] as [O, H, W, I]; `again`:
   * an earlier graph of the network has read it as well.
   */
  parameter(name: string, expected: readonly number[], { channelsLast = false, again = false } = {}): Value {
    const { tensor, storage, id } = this.#take(name, expected, again)
    if (storage !== 'float32' && storage !== 'float16')
      throw new CheckpointError(this.#network, `${id} is not the weight of a linear layer and cannot be ${storage}`)
    const [o, i, h, w] = expected
    const shape = channelsLast ? [o!, h!, w!, i!] : expected
    const source: WeightSource = { kind: 'cast', tensor, rows: [0, expected[0]!], storage, channelsLast }
    return this.graph.weight(id, storage, shape, source)
  }

  /** Row ranges of a matrix [N, K] or a vector [N], each as its own weight. */
  rows(name: string, ranges: readonly Rows[], expected: readonly number[]): Matrix[] {
    const { tensor, storage, id } = this.#take(name, expected)
    const [count] = expected
    return ranges.map((rows) => {
      const part = rows[1] - rows[0] === count ? id : `${id}[${rows[0]}:${rows[1]}]`
      const shape = [rows[1] - rows[0], ...expected.slice(1)]
      if (storage === 'int8' || storage === 'int4') return this.#integers(part, { tensor, rows, storage }, shape)
      if (storage !== 'float8e4m3fn' && storage !== 'fp8-int4') {
        const source: WeightSource = { kind: 'cast', tensor, rows, storage, channelsLast: false }
        return this.graph.weight(part, storage, shape, source)
      }
      const isPacked = storage === 'fp8-int4' && shape[1]! % GROUP === 0
      return this.#fp8(part, { kind: isPacked ? 'packed' : 'codes', tensor, rows }, shape)
    })
  }

  /** An FP8 matrix, or a 4-bit FP8 matrix if its source is `packed`. */
  #fp8(
    name: string,
    source: Extract<WeightSource, { kind: 'codes' | 'packed' }>,
    [n, k]: readonly number[],
  ): QuantizedMatrix | PackedWeight {
    const isPacked = source.kind === 'packed'
    const values = isPacked
      ? this.graph.weight(name, 'uint8', [n!, k! / GROUP, GROUP_BYTES], source)
      : this.graph.weight(name, 'float8e4m3fn', [n!, k!], source)
    const ofGroups: WeightSource = { kind: 'group-scales' }
    const groupScales = isPacked && this.graph.weight(`${name}.group_scale`, 'uint8', [n!, k! / GROUP], ofGroups)
    const ofRows: WeightSource = { kind: 'scales', storage: 'float32' }
    const shape = this.lowering.rowScales === 'vector' ? [n!] : [n!, 1]
    const scales = this.graph.weight(`${name}.scale`, 'float32', shape, ofRows)
    return groupScales ? { packed: values, groupScales, scales } : { codes: values, scales }
  }

  /** A block-quantized matrix, or a float16 one if no block size divides its rows. */
  #integers(name: string, { tensor, rows, storage }: IntegerWeight, [n, k]: readonly number[]): Matrix {
    const bits = storage === 'int8' ? 8 : 4
    const block = blockOf(k!, bits)
    if (block === null) {
      const source: WeightSource = { kind: 'cast', tensor, rows, storage: 'float16', channelsLast: false }
      return this.graph.weight(name, 'float16', [n!, k!], source)
    }
    const count = k! / block
    const codes: WeightSource = { kind: 'integers', tensor, rows, bits }
    const blocks = this.graph.weight(name, 'uint8', [n!, count, (block * bits) / 8], codes)
    const dtype = this.lowering.activations === 'float32' ? 'float32' : 'float16'
    const scales: WeightSource = { kind: 'scales', storage: dtype }
    return { blocks, scales: this.graph.weight(`${name}.scale`, dtype, [n!, count], scales), bits, block }
  }

  #take(name: string, expected: readonly number[], again = false): { tensor: Tensor; storage: Storage; id: string } {
    const id = this.#name(name)
    const tensor = this.build.ledger.take(id, again)
    if (String(tensor.shape) !== String(expected)) {
      throw new CheckpointError(
        this.#network,
        `tensor ${id} is [${tensor.shape.join(', ')}]; the model requires [${expected.join(', ')}]`,
      )
    }
    return { tensor, storage: this.build.precision.storageOf(this.#network, id, expected), id }
  }

  get #network(): string {
    return this.build.ledger.network
  }

  #name(name: string): string {
    return this.path === '' ? name : `${this.path}.${name}`
  }
}

/** One stream of joint attention; its module has qkv, ln_q and ln_k. Without `queries` it contributes keys and values only. */
export type AttentionInput = { readonly s: Scope; readonly x: Operand; readonly queries?: boolean }

export type Lowering = {
  readonly target: Target
  /** Type of activations. */
  readonly activations: Dtype
  /** Fixed batch of the step graph, or a dynamic axis. */
  readonly batch: 1 | 'B'
  /**
   * Unit of residual streams: the stored value is the stream ÷ `streamUnit`. Those of SD3.5 Large reach 66,000, beyond float16. LayerNorm is
   * invariant to a unit of 16, and a power of two is exact.
   */
  readonly streamUnit: number
  /** Shape of the scales of an FP8 matrix with one scale per row: [N] or [N, 1]. */
  readonly rowScales: 'vector' | 'column'
  linear(s: Scope, x: Operand, weight: Matrix, bias: Value | null, activation?: Activation): Operand
  /** gate · (x · weight transposed + bias); without a gate if null. */
  branch(s: Scope, x: Operand, weight: Matrix, bias: Value, gate: ModulationVector | null): ResidualBranch
  modulationVectors(modulation: Value, width: number): ModulationVector[]
  modulate(
    stream: Stream,
    modulations: readonly Modulation[],
    epsilon: number,
    reader: Scope,
  ): { stream: Stream; normed: Operand[] }
  attend(parts: readonly [AttentionInput, AttentionInput?], options: JointAttentionOptions): Operand[]
  headNorm(x: Value, weight: Value, heads: number, epsilon: number): Value
  featureMap(x: Value): Value
  planes(x: Value): Value
  channels(x: Value): number
  conv2d(s: Scope, x: Value, out: number, bias: Value | null, options: ConvolutionOptions): Value
  /** Whether the readers of feature maps support a deferred bias. */
  readonly defersBiases: boolean
  /** x + y, where y has no deferred skip. */
  addSkip(x: Value, y: FeatureMap): FeatureMap
  /** The map with its deferred terms applied. */
  applyDeferred(x: FeatureMap): Value
  /** The norm of a map and, with `keep`, the map with its deferred terms applied. */
  groupNorm(s: Scope, x: FeatureMap, options: GroupNormOptions & { keep: boolean }): { map: Value; normed: Value }
  upsampleNearest(x: Value): Value
  /** The map with a row of zeros below and a column of zeros at the right. */
  padEnd(x: Value): Value
  tokens(x: Value, length: string): Value
  fromTokens(x: Value, like: Value): Value
}
