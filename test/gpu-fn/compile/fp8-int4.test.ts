// Tier fp8-int4: 4-bit MLPs in the denoiser, and default bits of adaLN and T5.
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { decodeTable } from '../../../gpu-fn/compile/checkpoint/formats/fp8.ts'
import { GROUP, GROUP_BYTES, quantizePacked, unpackCodes } from '../../../gpu-fn/compile/checkpoint/formats/fp8-int4.ts'
import { assertOptions } from '../../../gpu-fn/compile/compile.ts'
import { Graph } from '../../../gpu-fn/compile/graph/graph.ts'
import type { Model } from '../../../gpu-fn/compile/graph/model.ts'
import * as ops from '../../../gpu-fn/compile/graph/ops.ts'
import { cpu } from '../../../gpu-fn/compile/lower/cpu.ts'
import { chooseLowerings } from '../../../gpu-fn/compile/lower/lowerings.ts'
import { encodeModel } from '../../../gpu-fn/compile/write/onnx.ts'
import type { Tier } from '../../../gpu-fn/contract.ts'
import { updatesOf } from '../../../gpu-fn/engine/package/adapters.ts'
import type { Target } from '../../../gpu-fn/manifest.ts'
import { buildModel } from '../../../gpu-fn/models/sd35/build.ts'
import { openCheckpoint } from '../../../gpu-fn/models/sd35/sd35.ts'
import { openSession } from '../../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../../gpu-fn/runtime/session.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { writeSparseCheckpoint } from '../../support/checkpoints/real-headers.ts'
import { computeRelativeError, createPseudoRandom, type FloatTensor } from '../../support/checkpoints/tensors.ts'
import { compileTestLora, writeRandomLora } from '../../support/lora.ts'
import { LORAS } from '../../support/lora-outputs.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
const TIER = { tier: 'fp8-int4' } as const satisfies { tier: Tier }

async function build(name: 'large' | 'medium', target: Target): Promise<Model> {
  const paths = await writeSparseCheckpoint(path.join(scratch.directory, name), name, 'single-file')
  return buildModel(await openCheckpoint(paths), paths, TIER, chooseLowerings(target))
}

function countOperators({ nodes }: Graph, under: string): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { name, op } of nodes) if (name.startsWith(under)) counts[op] = (counts[op] ?? 0) + 1
  return counts
}

describe('the step graph of Large', () => {
  test('of target cuda-fp8 unpacks the MLPs of the middle blocks before their products', async () => {
    const graph = (await build('large', 'cuda-fp8')).graphs.get('transformer')!
    expect(countOperators(graph, 'joint_blocks.5.')).toMatchObject({ Linear: 8, UnpackFp8: 4 })
    expect(countOperators(graph, 'joint_blocks.34.')).toMatchObject({ Linear: 8, UnpackFp8: 4 })
    for (const block of [0, 1, 35, 36, 37])
      expect(countOperators(graph, `joint_blocks.${block}.`).UnpackFp8).toBeUndefined()
  })

  test('unpacks a weight only after the activations of its product are computed', async () => {
    const { nodes } = (await build('large', 'cuda-fp8')).graphs.get('transformer')!
    const unpacked = nodes.filter(({ op }) => op === 'UnpackFp8')
    for (const { inputs, outputs } of unpacked) {
      const product = nodes.find((node) => node.op === 'Linear' && node.inputs[2] === outputs[0])!
      expect(product.inputs[0]).toBe(inputs[2])
    }
  })

  test.each(['cpu', 'cuda'] as const)('of target %s multiplies block-quantized integers', async (target) => {
    const graph = (await build('large', target)).graphs.get('transformer')!
    expect(countOperators(graph, 'joint_blocks.5.')).toMatchObject({ MatMulNBits: 4 })
    expect(countOperators(graph, 'joint_blocks.0.').MatMulNBits).toBeUndefined()
  })

  test('of other GPUs reads the same weights as the one with kernels', async () => {
    const { graphs, withoutKernels } = await build('medium', 'cuda-fp8')
    const readStored = ({ weights }: Graph) =>
      new Map(weights.map(({ name, dtype, shape }) => [name, { dtype, shape }]))
    expect(readStored(withoutKernels!.transformer)).toEqual(readStored(graphs.get('transformer')!))
    expect(countOperators(withoutKernels!.transformer, 'joint_blocks.5.')).toMatchObject({ MatMulNBits: 4 })
  })
})

describe.each(['tiny-medium', 'tiny-large'] as const)('one step of %s', (variant) => {
  const [context, latent] = [createPseudoRandom([2, 40, 256], 1), createPseudoRandom([2, 16, 16, 12], 2)]
  let exact: FloatTensor
  let fp8: FloatTensor
  beforeAll(async () => {
    exact = await step(await compileTiny({ variant }))
    fp8 = await step(await compileTiny({ variant, tier: 'fp8' }))
  })

  test('has a bounded error relative to float32, above that of FP8', async () => {
    const error = computeRelativeError(await step(await compileTiny({ variant, ...TIER })), exact)
    expect(error).toBeGreaterThan(computeRelativeError(fp8, exact))
    expect(error).toBeLessThan(0.15)
  })

  test('changes little with the rounding of the kernels', async () => {
    const integers = await step(await compileTiny({ variant, ...TIER }))
    const codes = await step(await compileTiny({ variant, ...TIER, asKernels: true }))
    expect(computeRelativeError(codes, integers)).toBeLessThan(0.06)
  })

  /** Velocity at one noise level. */
  async function step(directory: string): Promise<FloatTensor> {
    const open = (network: string) => openSession(path.join(directory, `${network}.onnx`), { target: 'cpu' })
    const [conditioning, transformer] = [await open('conditioning'), await open('transformer')]
    const { position, text } = (await openPackage(directory)).manifest
    const { modulation, context: tokens } = await conditioning.runOnDevice({
      timesteps: { dims: [1], data: Float32Array.of(700) },
      pooled: createPseudoRandom([2, text.pooled_width], 5),
      prompt_embeds: context,
    })
    const table = position.file !== undefined && { position: createPseudoRandom([8 * 6, position.width], 6) }
    const inputs = { latent: latent as Tensor, modulation: modulation!.row(0), context: tokens!, ...table }
    const { velocity } = await transformer.run(inputs)
    await Promise.all([conditioning.release(), transformer.release()])
    return velocity as FloatTensor
  }
})

test('the CPU decodes a small matrix to the same E4M3 values as a GPU', async () => {
  const [rows, columns] = [24, 64]
  const { data } = createPseudoRandom([rows, columns], 3)
  const packed = new Uint8Array((rows * columns) / 2)
  const groupScales = new Uint8Array((rows * columns) / GROUP)
  const scales = new Float32Array(rows)
  quantizePacked(data, rows, columns, { packed, groupScales, scales })
  const graph = new Graph('product')
  const input = (name: string, dims: number[]) => graph.input(name, 'float32', dims)
  const x = input('x', [1, columns, columns])
  const weight = {
    packed: ops.cast(input('packed', [rows, columns / GROUP, GROUP_BYTES]), 'uint8'),
    groupScales: ops.cast(input('groupScales', [rows, columns / GROUP]), 'uint8'),
    scales: input('scales', [rows]),
  }
  // No scope is needed, because the layer has no other parameters.
  graph.output('y', cpu.linear(undefined as never, x, weight, null))
  const file = path.join(scratch.directory, 'product.onnx')
  await writeFile(file, encodeModel(graph, { location: '', layout: [] }, '0'))
  const session = await openSession(file, { target: 'cpu' })
  const identity = Float32Array.from({ length: columns ** 2 }, (_, i) => (i % (columns + 1) === 0 ? 1 : 0))
  const { y } = await session.run({
    x: { dims: [1, columns, columns], data: identity },
    packed: { dims: [rows, columns / GROUP, GROUP_BYTES], data: Float32Array.from(packed) },
    groupScales: { dims: [rows, columns / GROUP], data: Float32Array.from(groupScales) },
    scales: { dims: [rows], data: scales },
  })
  await session.release()
  const codes = unpackCodes(packed, groupScales)
  const transposed = Float32Array.from({ length: rows * columns }, (_, i) => {
    const [column, row] = [Math.floor(i / rows), i % rows]
    return decodeTable[codes[row * columns + column]!]! * scales[row]!
  })
  const removeSign = (values: Float32Array) => values.map((value) => value || 0)
  expect(removeSign(y!.data as Float32Array)).toEqual(removeSign(transposed))
})

describe('an adapter', () => {
  test('for the MLPs is rejected, and the error states a remedy', async () => {
    const directory = await compileTiny(TIER)
    const lora = await compileTestLora(path.join(LORAS, 'kohya.safetensors'), directory)
    const pkg = await openPackage(directory)
    expect(() => updatesOf(pkg, [{ lora, scale: 1 }])).toThrow(
      'updates 4-bit weights of transformer in custom, which is unsupported; the operator can compile the checkpoint in tier fp8',
    )
  })

  test('for attention only is merged into the FP8 weights', async () => {
    const directory = await compileTiny(TIER)
    const pkg = await openPackage(directory)
    const file = path.join(scratch.directory, 'attention.safetensors')
    await writeRandomLora(file, pkg.manifest.position.width, { rank: 4, blocks: 3, dtype: 'BF16' })
    const lora = await compileTestLora(file, directory)
    const { weights } = updatesOf(pkg, [{ lora, scale: 1 }]).get('transformer')!
    expect(weights.every(({ weight }) => weight.dtype === 'float8e4m3fn')).toBe(true)
  })
})

test('adaLN defaults to 8 bits and T5 to 4, and options override both', async () => {
  const bitsOf = async (options: Pick<Parameters<typeof compileTiny>[0], 'adalnBits' | 't5Bits'>) => {
    const { weights } = (await openPackage(await compileTiny({ ...TIER, ...options }))).manifest
    const readBits = (network: string, name: RegExp) => {
      const { bits, dtype } = weights[`${network}.weights`]!.find((tensor) => name.test(tensor.name))!
      return bits ?? dtype
    }
    return [readBits('conditioning', /adaLN_modulation\.1\.weight$/), readBits('t5', /DenseReluDense\.wo\.weight$/)]
  }
  expect(await bitsOf({})).toEqual([8, 4])
  expect(await bitsOf({ adalnBits: 16, t5Bits: 8 })).toEqual(['float16', 'float8e4m3fn'])
  expect(() => assertOptions({ ...TIER, target: 'cuda-fp8', adalnBits: 16, t5Bits: 8 })).not.toThrow()
})
