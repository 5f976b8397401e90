// A ControlNet in the shape of SD3.5 Large's against diffusers, on the tiny transformer and pseudo-random weights.
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readParameters } from '../../../../../gpu-fn/compile/checkpoint/formats/quantization.ts'
import { readHeader } from '../../../../../gpu-fn/compile/checkpoint/formats/safetensors.ts'
import type { Tensor as TensorContent } from '../../../../../gpu-fn/compile/checkpoint/tensor.ts'
import { buildGraph } from '../../../../../gpu-fn/compile/graph/build-graph.ts'
import type { Graph } from '../../../../../gpu-fn/compile/graph/graph.ts'
import { Ledger } from '../../../../../gpu-fn/compile/graph/ledger.ts'
import type { Scope } from '../../../../../gpu-fn/compile/graph/scope.ts'
import { cpu } from '../../../../../gpu-fn/compile/lower/cpu.ts'
import { encodeModel } from '../../../../../gpu-fn/compile/write/onnx.ts'
import { createWeightsFile, PackageWriter } from '../../../../../gpu-fn/compile/write/package-writer.ts'
import { FAMILIES } from '../../../../../gpu-fn/models/families.ts'
import { deriveMMDiT } from '../../../../../gpu-fn/models/sd35/configurations.ts'
import { control, controlConditioning } from '../../../../../gpu-fn/models/sd35/networks/controlnet.ts'
import {
  conditioning,
  embedding,
  type MMDiTConfig,
  type PositionTables,
  transformer,
} from '../../../../../gpu-fn/models/sd35/networks/mmdit.ts'
import { splitPositionTable } from '../../../../../gpu-fn/models/sd35/positions.ts'
import { createSd35Precision } from '../../../../../gpu-fn/models/sd35/precision.ts'
import { readPosition } from '../../../../../gpu-fn/pipeline/position.ts'
import { openSession } from '../../../../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../../../../gpu-fn/runtime/session.ts'
import { openPackage } from '../../../../../gpu-fn/weights/packages.ts'
import { writeTinyCheckpoint } from '../../../../../infra/checkpoints/tiny/checkpoint.ts'
import { writeSafetensors } from '../../../../../infra/checkpoints/write-safetensors.ts'
import { compileTiny } from '../../../../support/checkpoints/compile.ts'
import {
  computeRelativeError,
  createPseudoRandom,
  type FloatTensor,
  readTensors,
} from '../../../../support/checkpoints/tensors.ts'

const GOLDEN = path.join(import.meta.dirname, '../../../../golden/controlnet.safetensors')
/** As in test/golden/scripts/controlnet.py. */
const [DEPTH, SCALE, BATCH, HEIGHT, WIDTH, TOKENS, TIMESTEP] = [3, 0.7, 2, 8, 6, 11, 750]

type Tensors = Map<string, TensorContent>
let scratch: string
let denoiser: { tensors: Tensors; config: MMDiTConfig; positions: PositionTables }
let golden: Map<string, FloatTensor>
beforeAll(async () => {
  scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-controlnet-'))
  const written = await writeTinyCheckpoint(path.join(scratch, 'tiny'), { variant: 'tiny-large' })
  const checkpoint = await FAMILIES.sd35.openCheckpoint([written], { tier: 'fp32' })
  const tensors = checkpoint.networks.transformer!
  const config = deriveMMDiT(tensors, checkpoint.config.transformer)
  const positions = splitPositionTable(tensors.get('pos_embed')!, config.positionMax, config.width)
  denoiser = { tensors, config, positions }
  golden = await readTensors(GOLDEN)
})
afterAll(() => fs.rm(scratch, { recursive: true }))

/** The ControlNet's tensors, in the order of their seeds. */
async function controlTensors({ width, pooledWidth, inChannels }: MMDiTConfig): Promise<Tensors> {
  const createLinear = (name: string, rows: number, columns: number): [string, number[]][] => [
    [`${name}.weight`, [rows, columns]],
    [`${name}.bias`, [rows]],
  ]
  const parameters: [string, number[]][] = [
    ['pos_embed_input.proj.weight', [width, inChannels, 2, 2]],
    ['pos_embed_input.proj.bias', [width]],
    ...createLinear('time_text_embed.timestep_embedder.linear_1', width, 256),
    ...createLinear('time_text_embed.timestep_embedder.linear_2', width, width),
    ...createLinear('time_text_embed.text_embedder.linear_1', width, pooledWidth),
    ...createLinear('time_text_embed.text_embedder.linear_2', width, width),
    ...Array.from({ length: DEPTH }, (_, i) => [
      ...createLinear(`transformer_blocks.${i}.adaLN_modulation.1`, 6 * width, width),
      ...createLinear(`transformer_blocks.${i}.attn.qkv`, 3 * width, width),
      ...createLinear(`transformer_blocks.${i}.attn.proj`, width, width),
      ...createLinear(`transformer_blocks.${i}.mlp.fc1`, 4 * width, width),
      ...createLinear(`transformer_blocks.${i}.mlp.fc2`, width, 4 * width),
      ...createLinear(`controlnet_blocks.${i}`, width, width),
    ]).flat(),
  ]
  const named = parameters.map(([name, shape], index) => {
    const gain = shape.length === 1 ? 0.1 : shape.slice(1).reduce((product, n) => product * n) ** -0.5
    return { name, shape, data: createPseudoRandom(shape, 100 + index).data.map((value) => value * gain) }
  })
  const file = path.join(scratch, 'controlnet.safetensors')
  await writeSafetensors(file, named, 'F32')
  return readParameters(file, (await readHeader(file)).tensors)
}

/** Builds a graph for the CPU, and runs it once. */
async function run(name: string, ledger: Ledger, define: (s: Scope) => Graph, inputs: Record<string, Tensor>) {
  const graph = buildGraph(
    name,
    ledger,
    { lowering: cpu, precision: createSd35Precision('fp32'), probes: false },
    define,
  )
  const directory = path.join(scratch, name)
  await fs.mkdir(directory)
  const writer = new PackageWriter(directory)
  const file = createWeightsFile(`${name}.weights`, name, graph.weights)
  await writer.writeWeights([file])
  await writer.write(`${name}.onnx`, encodeModel(graph, { location: file.name, layout: file.layout }, '0'))
  const session = await openSession(path.join(directory, `${name}.onnx`), { target: 'cpu' })
  const outputs = await session.run(inputs)
  await session.release()
  return outputs as Record<string, FloatTensor>
}

const dropFirstAxis = ({ data, dims }: FloatTensor): FloatTensor => ({ data, dims: dims.slice(1) })

test('residuals and the velocity with them equal those of diffusers', async () => {
  const { config, positions } = denoiser
  const latent = createPseudoRandom([BATCH, config.inChannels, HEIGHT, WIDTH], 1)
  const timesteps = { dims: [1], data: Float32Array.of(TIMESTEP) }
  const pooled = createPseudoRandom([BATCH, config.pooledWidth], 3)
  const position = positions
    ? {}
    : { position: (await readPosition(await openPackage(await compileTiny({ variant: 'tiny-large' })), 4, 3))! }

  const net = { ...config, depth: DEPTH, channels: config.inChannels }
  const ledger = new Ledger('controlnet', await controlTensors(config))
  const conditions = await run('control_conditioning', ledger, (s) => controlConditioning(s, net), {
    timesteps,
    pooled,
  })
  const { tokens } = await run(
    'embedding',
    new Ledger('transformer', denoiser.tensors),
    (s) => embedding(s, config, positions),
    { latent, ...position },
  )
  const residuals = await run('control', ledger, (s) => control(s, net), {
    ...{ tokens: tokens!, control: createPseudoRandom([BATCH, config.inChannels, HEIGHT, WIDTH], 4) },
    ...{ modulation: dropFirstAxis(conditions.modulation!), scale: { dims: [1], data: Float32Array.of(SCALE) } },
  })
  ledger.assertComplete()
  for (let k = 0; k < DEPTH; k++)
    expect(computeRelativeError(residuals[`residual_${k}`]!, golden.get(`residual_${k}`)!)).toBeLessThan(1e-5)

  const own = new Ledger('transformer', denoiser.tensors)
  const prompt = createPseudoRandom([BATCH, TOKENS, config.contextWidth], 2)
  const conditioned = await run('conditioning', own, (s) => conditioning(s, config), {
    ...{ timesteps, pooled, prompt_embeds: prompt },
  })
  const given = Object.fromEntries(
    Array.from({ length: config.depth - 1 }, (_, block) => {
      const k = Math.trunc(block / (config.depth / DEPTH))
      return [`residual_${block}`, residuals[`residual_${k}`]!]
    }),
  )
  const { velocity } = await run('transformer', own, (s) => transformer(s, config, positions, true), {
    ...{
      latent,
      ...position,
      ...given,
      modulation: dropFirstAxis(conditioned.modulation!),
      context: conditioned.context!,
    },
  })
  expect(computeRelativeError(velocity!, golden.get('velocity')!)).toBeLessThan(1e-5)
})

test('a step graph without a ControlNet has no inputs for one', async () => {
  const { config, positions, tensors } = denoiser
  const settings = { lowering: cpu, precision: createSd35Precision('fp32'), probes: false }
  const inputsOf = (controlled?: boolean) => {
    const ledger = new Ledger('transformer', tensors)
    const graph = buildGraph('transformer', ledger, settings, (s) => transformer(s, config, positions, controlled))
    return { names: graph.inputs.map(({ name }) => name), nodes: graph.nodes.length }
  }
  const [plain, controlled] = [inputsOf(), inputsOf(true)]
  expect(plain.names).not.toContain('residual_0')
  const residuals = Array.from({ length: config.depth - 1 }, (_, block) => `residual_${block}`)
  expect(controlled.names).toEqual([...plain.names, ...residuals])
  expect(controlled.nodes).toBeGreaterThan(plain.nodes)
})
