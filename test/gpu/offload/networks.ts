// Networks for the check of offloading: layers of one kind, with random weights that differ at every address.
import fs from 'node:fs/promises'
import path from 'node:path'
import { Graph, type Value } from '../../../gpu-fn/compile/graph/graph.ts'
import * as ops from '../../../gpu-fn/compile/graph/ops.ts'
import { encodeModel } from '../../../gpu-fn/compile/write/onnx.ts'
import { computeTensorBytes } from '../../../gpu-fn/dtype.ts'
import type { StoredTensor } from '../../../gpu-fn/manifest.ts'
import { createRandomWords } from '../../../infra/checkpoints/random-weights.ts'

type StoredDtype = 'float32' | 'float16'
/** A weight of each layer. Its absolute values are from 2 ^ `exponent` (inclusive) to 2 ^ (`exponent` + 1). */
type Parameter = {
  readonly name: string
  readonly dtype: StoredDtype
  readonly shape: number[]
  readonly exponent: number
}

export type Network = {
  readonly name: string
  readonly layers: number
  readonly input: readonly number[]
  readonly activations: StoredDtype
  readonly parameters: readonly Parameter[]
  /** Maximum relative error of a correct result; 0 for bit-exact reproducible operators. */
  readonly tolerance: number
  readonly apply: (x: Value, parameters: readonly Value[]) => Value
}

/** Channels of the feature maps, as in the widest layers of the VAE decoder. */
const CHANNELS = 512
/** Exponent of matrix weights; preserves the magnitude of values in products with thousands of summands. */
const MATRIX = -7
const NORM = -1

const describeLike = ({ dtype, shape }: Value) => [{ dtype, shape }]

/**
 * `products` has 0.8 GB of weights, as in the transformer. The other networks reuse its memory; each has 0.15 GB, copied within 3 ms.
 * `norms` has the convolutions and norms of target cuda's VAE decoder; onnxruntime's GroupNorm sums in a varying order.
 */
export const NETWORKS: readonly Network[] = [
  {
    name: 'products',
    layers: 12,
    input: [64, 4096],
    activations: 'float32',
    parameters: [{ name: 'weight', dtype: 'float32', shape: [4096, 4096], exponent: MATRIX }],
    tolerance: 0,
    apply: (x, [weight]) => x.graph.node('MatMul', [x, weight!], describeLike(x))[0]!,
  },
  {
    name: 'convolutions',
    layers: 16,
    input: [1, CHANNELS, 64, 64],
    activations: 'float32',
    parameters: [{ name: 'weight', dtype: 'float32', shape: [CHANNELS, CHANNELS, 3, 3], exponent: MATRIX }],
    tolerance: 0,
    apply: (x, [weight]) => x.graph.node('Conv', [x, weight!], describeLike(x), { pads: [1, 1, 1, 1] })[0]!,
  },
  {
    name: 'norms',
    layers: 32,
    input: [1, 128, 128, CHANNELS],
    activations: 'float16',
    parameters: [
      { name: 'weight', dtype: 'float16', shape: [CHANNELS, 3, 3, CHANNELS], exponent: MATRIX },
      { name: 'norm.weight', dtype: 'float32', shape: [CHANNELS], exponent: NORM },
      { name: 'norm.bias', dtype: 'float32', shape: [CHANNELS], exponent: NORM },
    ],
    tolerance: 0.02,
    apply(x, [weight, scale, bias]) {
      const convolution = { kernel_shape: [3, 3], strides: [1, 1], pads: [1, 1, 1, 1] }
      const [map] = x.graph.node('NhwcConv', [x, weight!], describeLike(x), convolution, 'com.microsoft')
      const norm = { groups: 32, epsilon: { float: 1e-6 }, activation: 1, channels_last: 1 }
      return x.graph.node('GroupNorm', [map!, scale!, bias!], describeLike(x), norm, 'com.microsoft')[0]!
    },
  },
]

/** Writes the graph and the weights of a network into a directory; returns the graph's file and the weights. */
export async function writeNetwork(directory: string, network: Network) {
  const tensors = layoutOf(network)
  const [file, weights] = ['onnx', 'weights'].map((type) => path.join(directory, `${network.name}.${type}`))
  const external = { location: path.basename(weights!), layout: tensors }
  await fs.writeFile(file!, encodeModel(buildGraph(network), external, '0'))
  const random = createRandomWords(network.layers)
  await using output = await fs.open(weights!, 'w')
  for (let layer = 0; layer < network.layers; layer++)
    for (const parameter of network.parameters) await output.write(createRandomBytes(parameter, random))
  return { file: file!, weights: { file: weights!, tensors } }
}

function buildGraph({ name, layers, input, activations, parameters, apply }: Network): Graph {
  const graph = new Graph(name)
  let x = ops.cast(graph.input('x', 'float32', input), activations)
  for (let layer = 0; layer < layers; layer++) {
    const weights = parameters.map(({ name, dtype, shape }) => graph.weight(nameOf(layer, name), dtype, shape, null))
    x = apply(x, weights)
  }
  graph.output('y', ops.cast(x, 'float32'))
  return graph
}

const nameOf = (layer: number, parameter: string) => `layer.${layer}.${parameter}`

function layoutOf({ layers, parameters }: Network): StoredTensor[] {
  let end = 0
  return Array.from({ length: layers }).flatMap((_, layer) =>
    parameters.map(({ name, dtype, shape }) => {
      const offset = end
      end += computeTensorBytes(dtype, shape)
      return { name: nameOf(layer, name), dtype, shape, offset }
    }),
  )
}

/** Sign and fraction bits in a 32-bit word of values, exponent bias, and lowest bit of the exponents. */
const FORMATS: Record<StoredDtype, readonly [mask: number, bias: number, unit: number]> = {
  float32: [0x807f_ffff, 127, 0x0080_0000],
  float16: [0x83ff_83ff, 15, 0x0400_0400],
}

function createRandomBytes({ dtype, shape, exponent }: Parameter, random: () => number): Uint8Array {
  const words = new Uint32Array(computeTensorBytes(dtype, shape) / 4)
  const [mask, bias, unit] = FORMATS[dtype]
  for (let i = 0; i < words.length; i++) words[i] = (random() & mask) | ((exponent + bias) * unit)
  return new Uint8Array(words.buffer)
}
