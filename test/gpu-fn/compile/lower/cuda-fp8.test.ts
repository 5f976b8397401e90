import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { compile } from '../../../../gpu-fn/compile/compile.ts'
import type { Graph } from '../../../../gpu-fn/compile/graph/graph.ts'
import type { Model } from '../../../../gpu-fn/compile/graph/model.ts'
import { chooseLowerings } from '../../../../gpu-fn/compile/lower/lowerings.ts'
import { FAMILIES } from '../../../../gpu-fn/models/families.ts'
import { buildModel } from '../../../../gpu-fn/models/sd35/build.ts'
import { openCheckpoint } from '../../../../gpu-fn/models/sd35/sd35.ts'
import { openSession } from '../../../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../../../gpu-fn/runtime/session.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { writeTinyControlnet } from '../../../../infra/checkpoints/tiny/controlnet.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'
import { writeSparseCheckpoint } from '../../../support/checkpoints/real-headers.ts'
import { computeRelativeError, createPseudoRandom, type FloatTensor } from '../../../support/checkpoints/tensors.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()

/** Counts the nodes of each operator, in the whole graph or in the module `under`. */
function countOperators({ nodes }: Graph, under = ''): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { name, op } of nodes) if (name.startsWith(under)) counts[op] = (counts[op] ?? 0) + 1
  return counts
}

async function build(name: 'large' | 'medium', target: 'cuda' | 'cuda-fp8' = 'cuda-fp8'): Promise<Model> {
  const paths = await writeSparseCheckpoint(path.join(scratch.directory, name), name, 'single-file')
  return buildModel(await openCheckpoint(paths), paths, { tier: 'fp8' }, chooseLowerings(target))
}

describe('the step graph of target cuda-fp8', () => {
  test('of Large has every product of a block in FP8, with one operator between two products', async () => {
    const graph = (await build('large')).graphs.get('transformer')!
    const all = countOperators(graph)
    expect(all.MatMulBlockQuantizedFp8Weight).toBeUndefined()
    expect(all.MultiHeadAttention).toBeUndefined()
    expect(all.FusedMatMul).toBe(1) // the last layer
    // Cast and Mul bring biases into the products' type and unit, once as the graph is opened.
    const { Cast, Mul, ...block } = countOperators(graph, 'joint_blocks.5.')
    expect(block).toEqual({
      ...{ ModulateQuantize: 4, Linear: 8, GeluQuantize: 2, QkNormQuantize: 1, Attention: 1, QuantizeParts: 1 },
    })
    const last = countOperators(graph, 'joint_blocks.37.')
    expect(last).toMatchObject({ ModulateQuantize: 3, Linear: 5, GeluQuantize: 1, Attention: 1 })
  })

  test("of a ControlNet has every product of a block in FP8, and onnxruntime's attention", async () => {
    const directory = await writeTinyControlnet(path.join(scratch.directory, 'controlnet'))
    const checkpoint = await FAMILIES.sd35.openControlnet(directory)
    const { graphs } = FAMILIES.sd35.buildControlnet(
      checkpoint,
      [directory],
      { tier: 'fp8' },
      chooseLowerings('cuda-fp8'),
    )
    expect(countOperators(graphs.control).MatMulBlockQuantizedFp8Weight).toBeUndefined()
    expect(countOperators(graphs.control, 'transformer_blocks.0')).toMatchObject({
      ...{ ModulateQuantize: 2, Linear: 4, GeluQuantize: 1, MultiHeadAttention: 1, QuantizeParts: 1 },
    })
  })

  test('reads the weights of FP8 products and their scales as they are stored, so that updates of both have an effect', async () => {
    const graph = (await build('large')).graphs.get('transformer')!
    const stored = new Set(graph.weights.map(({ name }) => name))
    const products = graph.nodes.filter(({ op }) => op === 'Linear')
    expect(products.length).toBeGreaterThan(38 * 7)
    const read = products.flatMap(({ inputs: [, , codes, scales] }) => [codes, scales])
    expect(read.filter((name) => !stored.has(name!))).toEqual([])
  })

  test('of Medium has a second attention in its first blocks, which shares the normalization', async () => {
    const graph = (await build('medium')).graphs.get('transformer')!
    expect(countOperators(graph, 'joint_blocks.0.')).toMatchObject({ ModulateQuantize: 4, Linear: 10, Attention: 2 })
    expect(countOperators(graph, 'joint_blocks.13.')).toMatchObject({ ModulateQuantize: 4, Linear: 8, Attention: 1 })
  })

  test('reads the same weights as the graph for other GPUs, which equals that of target cuda', async () => {
    const { graphs, withoutKernels } = await build('medium')
    const alone = await build('medium', 'cuda')
    const describeWeights = (graph: Graph) =>
      new Map(graph.weights.map(({ name, dtype, shape }) => [name, { dtype, shape }]))
    expect(Object.keys(withoutKernels!)).toEqual(['transformer', 'vae_decoder', 'vae_encoder'])
    for (const [network, graph] of Object.entries(withoutKernels!)) {
      expect(describeWeights(graph)).toEqual(describeWeights(graphs.get(network)!))
      expect(countOperators(graph)).toEqual(countOperators(alone.graphs.get(network)!))
    }
  })

  test('accepts any batch size, while the graph for other GPUs accepts one sample', async () => {
    const { graphs, withoutKernels, manifest } = await build('medium')
    expect(manifest.transformer_batch).toBeNull()
    expect(graphs.get('transformer')!.inputs[0]!.shape[0]).toBe('B')
    expect(withoutKernels!.transformer.inputs[0]!.shape[0]).toBe(1)
  })

  test('keeps 16-bit activations in T5', async () => {
    const graphs = [...(await build('large')).graphs].filter(([network]) => network.startsWith('t5'))
    const products = graphs.map(([, graph]) => countOperators(graph).MatMulBlockQuantizedFp8Weight ?? 0)
    expect(products.reduce((sum, count) => sum + count)).toBe(24 * 7)
  })
})

describe('the autoencoder of target cuda-fp8', () => {
  test('adds biases and skips in its normalization, except after upsampling', async () => {
    const graph = (await build('large')).graphs.get('vae_decoder')!
    const convolutions = graph.nodes.filter(({ op }) => op === 'NhwcConv')
    const biased = convolutions.filter(({ inputs }) => inputs.length === 3).map(({ name }) => name.split('.').at(-1))
    expect(new Set(biased)).toEqual(
      new Set(['conv_in/NhwcConv', 'conv/NhwcConv', 'nin_shortcut/NhwcConv', 'conv_out/NhwcConv']),
    )
    const norms = graph.nodes.filter(({ op }) => op === 'GroupNorm')
    expect(norms.every(({ domain }) => domain === 'octet')).toBe(true)
    expect(countOperators(graph, 'decoder.up.2.block.1')).toEqual({ GroupNorm: 2, NhwcConv: 2 })
    const adds = graph.nodes.filter(({ op }) => op === 'Add').map(({ name }) => name)
    expect(adds.filter((name) => /up\.\d/.test(name))).toEqual([
      ...[3, 2, 1].flatMap((level) => ['Add', 'Add_1'].map((add) => `decoder.up.${level}.block.2.conv2/${add}`)),
    ])
  })

  test.each(['tiny-medium', 'tiny-large'] as const)('of %s decodes like the one for the CPU', async (variant) => {
    const decode = async (directory: string) => {
      const session = await openSession(path.join(directory, 'vae_decoder.onnx'), { target: 'cpu' })
      return (await session.run({ latent: createPseudoRandom([2, 16, 6, 10], 7) })).image as FloatTensor
    }
    const expected = await decode(await compileTiny({ variant, tier: 'fp8' }))
    expect(
      computeRelativeError(await decode(await compileTiny({ variant, tier: 'fp8', asKernels: true })), expected),
    ).toBeLessThan(1e-5)
  })
})

test('a package for cuda-fp8 lists two graphs for each network with kernels, over one file of weights', async () => {
  const { directory, manifest } = await openPackage(await compileTiny({ tier: 'fp8', target: 'cuda-fp8' }), {
    verify: true,
  })
  expect(manifest).toMatchObject({ target: 'cuda-fp8', transformer_batch: null })
  expect(Object.keys(manifest.files).filter((name) => name.startsWith('transformer'))).toEqual([
    ...['transformer-without-kernels.onnx', 'transformer.onnx', 'transformer.weights'],
  ])
  expect(Object.keys(manifest.files).filter((name) => name.startsWith('vae'))).toEqual([
    ...['vae_decoder-without-kernels.onnx', 'vae_decoder.onnx', 'vae_decoder.weights'],
    ...['vae_encoder-without-kernels.onnx', 'vae_encoder.onnx', 'vae_encoder.weights'],
  ])
  const other = await openPackage(await compileTiny({ tier: 'fp8', target: 'cuda' }))
  for (const name of ['transformer.weights', 'vae_decoder.weights', 'vae_encoder.weights'])
    expect(manifest.files[name]).toEqual(other.manifest.files[name])
  expect(directory).not.toBe(other.directory)
})

test.each([
  [{ tier: 'fp16' } as const, /--target: cuda-fp8 requires FP8 weights, and tier fp16 has none; choose cuda/],
  [{ tier: 'fp8', hub: 'http://127.0.0.1:9' } as const, /--hub: is the server of `--tokenizers hub`; give both/],
])('%o is refused', async (options, message) => {
  const out = path.join(scratch.directory, 'package')
  await expect(compile({ checkpoint: ['/none'], out, target: 'cuda-fp8', ...options })).rejects.toThrow(message)
})

describe.each(['tiny-medium', 'tiny-large'] as const)(
  'FP8 activations in %s, with the rounding of the kernels',
  (variant) => {
    type Step = (context: FloatTensor, latent: FloatTensor) => Promise<FloatTensor>
    let exact: Step
    let rounded: Step
    beforeAll(async () => {
      exact = await openStep(await compileTiny({ variant, tier: 'fp8' }))
      rounded = await openStep(await compileTiny({ variant, tier: 'fp8', asKernels: true }))
    })

    test('change a step by less than 5 %, but change it', async () => {
      const [context, latent] = [createPseudoRandom([2, 40, 256], 1), createPseudoRandom([2, 16, 16, 12], 2)]
      const error = computeRelativeError(await rounded(context, latent), await exact(context, latent))
      expect(error).toBeGreaterThan(1e-3)
      expect(error).toBeLessThan(5e-2)
    })

    test('give each sample of a batch the same result as alone', async () => {
      const [context, latent] = [createPseudoRandom([2, 7, 256], 3), createPseudoRandom([2, 16, 8, 12], 4)]
      const both = await rounded(context, latent)
      const second = ({ data, dims }: FloatTensor): FloatTensor => ({
        data: data.slice(data.length / 2),
        dims: [1, ...dims.slice(1)],
      })
      expect(computeRelativeError(await rounded(second(context), second(latent)), second(both))).toBeLessThan(1e-5)
    })

    /** One step at one noise level: conditioning from prompt embeddings, then the denoiser. */
    async function openStep(directory: string): Promise<Step> {
      const open = (network: string) => openSession(path.join(directory, `${network}.onnx`), { target: 'cpu' })
      const [conditioning, transformer] = [await open('conditioning'), await open('transformer')]
      const { position, text } = (await openPackage(directory)).manifest
      return async (prompts, latent) => {
        const [batch, , height, width] = latent.dims as [number, number, number, number]
        const pooled = createPseudoRandom([2, text.pooled_width], 5)
        const { modulation, context } = await conditioning.runOnDevice({
          timesteps: { dims: [1], data: Float32Array.of(700) },
          pooled: {
            data: pooled.data.slice(pooled.data.length - batch * text.pooled_width),
            dims: [batch, text.pooled_width],
          },
          prompt_embeds: prompts,
        })
        const table = position.file !== undefined && {
          position: createPseudoRandom([(height / 2) * (width / 2), position.width], 6),
        }
        const inputs = { latent: latent as Tensor, modulation: modulation!.row(0), context: context!, ...table }
        return (await transformer.run(inputs)).velocity as FloatTensor
      }
    }
  },
)
