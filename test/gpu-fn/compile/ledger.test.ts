import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Checkpoint, Tensor } from '../../../gpu-fn/compile/checkpoint/tensor.ts'
import type { Model } from '../../../gpu-fn/compile/graph/model.ts'
import type { WeightSource } from '../../../gpu-fn/compile/graph/weight-source.ts'
import { chooseLowerings } from '../../../gpu-fn/compile/lower/lowerings.ts'
import { buildModel } from '../../../gpu-fn/models/sd35/build.ts'
import { openCheckpoint } from '../../../gpu-fn/models/sd35/sd35.ts'
import { LAYOUTS, type Layout, PUBLISHED, type PublishedModel } from '../../../infra/checkpoints/published.ts'
import { writeSparseCheckpoint } from '../../support/checkpoints/real-headers.ts'

let scratch: string
beforeAll(async () => {
  scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-ledger-'))
})
afterAll(() => fs.rm(scratch, { recursive: true }))

async function open(name: PublishedModel, layout: Layout): Promise<{ paths: string[]; checkpoint: Checkpoint }> {
  const paths = await writeSparseCheckpoint(path.join(scratch, `${name}-${layout}`), name, layout)
  return { paths, checkpoint: await openCheckpoint(paths) }
}

const build = (checkpoint: Checkpoint, paths: string[], target: 'cpu' | 'cuda' = 'cpu') =>
  buildModel(checkpoint, paths, { tier: 'fp8' }, chooseLowerings(target))

const countElements = (shape: readonly number[]) => shape.reduce((n, dim) => n * dim, 1)

/** How many values of each tensor went into the package. */
function countPackaged({ graphs }: Model): Map<Tensor, number> {
  const counts = new Map<Tensor, number>()
  for (const { shape, source } of [...graphs.values()].flatMap(({ weights }) => weights)) {
    const from = source as WeightSource
    if (!('tensor' in from)) continue
    const bits = from.kind === 'integers' ? from.bits : from.kind === 'packed' ? 4 : 8
    const values = (countElements(shape) * 8) / bits
    counts.set(from.tensor, (counts.get(from.tensor) ?? 0) + values)
  }
  return counts
}

describe.each(PUBLISHED)('the published tensors of %s', (name) => {
  test.each(LAYOUTS)('are each read exactly once, completely, in the %s layout', async (layout) => {
    const { paths, checkpoint } = await open(name, layout)
    const model = build(checkpoint, paths)
    expect(model.manifest.variant).toBe(name)
    const counts = countPackaged(model)
    const last = name === 'medium' ? 23 : 37
    const text = `joint_blocks.${last}.context_block.attn`
    for (const tensor of Object.values(checkpoint.networks).flatMap((tensors) => [...tensors.values()])) {
      // The table is split into two small ones, and the last block has no queries of the text.
      const dropped = tensor.name === 'pos_embed' || tensor.name === `${text}.ln_q.weight`
      // Each of T5's four graphs has the table of positions.
      const copies = tensor.name.includes('relative_attention_bias') ? 4 : 1
      const share = tensor.name.startsWith(`${text}.qkv.`) ? 2 / 3 : copies
      expect(counts.get(tensor) ?? 0, tensor.name).toBe(dropped ? 0 : countElements(tensor.shape) * share)
    }
  })

  test('are each read exactly once on CUDA too, for the same weights', async () => {
    const { paths, checkpoint } = await open(name, 'single-file')
    const countTotal = (model: Model) => [...countPackaged(model).values()].reduce((n, count) => n + count, 0)
    expect(countTotal(build(checkpoint, paths, 'cuda'))).toBe(countTotal(build(checkpoint, paths)))
  })
})

test.each([
  ['transformer', 'joint_blocks.7.x_block.attn2.ln_k.weight'],
  ['transformer', 'joint_blocks.23.context_block.adaLN_modulation.1.bias'],
  ['t5', 'encoder.block.11.layer.1.DenseReluDense.wi_1.weight'],
  ['clip_g', 'text_model.encoder.layers.31.self_attn.q_proj.bias'],
  ['vae', 'decoder.up.1.block.0.nin_shortcut.bias'],
] as const)('%s without %s is refused with the name of the tensor', async (network, tensor) => {
  const { paths, checkpoint } = await open('medium', 'single-file')
  expect(checkpoint.networks[network]!.delete(tensor)).toBe(true)
  expect(() => build(checkpoint, paths)).toThrow(tensor.replace(/\.[^.]+$/, ''))
})

test('a tensor that no model reads is refused with its name', async () => {
  const { paths, checkpoint } = await open('medium', 'single-file')
  const vae = checkpoint.networks.vae!
  vae.set('decoder.up.0.block.2.conv3.weight', {
    ...vae.get('decoder.conv_in.bias')!,
    name: 'decoder.up.0.block.2.conv3.weight',
  })
  expect(() => build(checkpoint, paths)).toThrow('vae: unexpected tensors (1): decoder.up.0.block.2.conv3.weight')
})
