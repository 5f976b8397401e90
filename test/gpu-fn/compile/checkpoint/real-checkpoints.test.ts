import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Checkpoint, Tensor } from '../../../../gpu-fn/compile/checkpoint/tensor.ts'
import { openCheckpoint } from '../../../../gpu-fn/models/sd35/sd35.ts'
import { type Layout, PUBLISHED, type PublishedModel } from '../../../../infra/checkpoints/published.ts'
import { writeSparseCheckpoint } from '../../../support/checkpoints/real-headers.ts'

/** Parameters of each network, counted from the published architectures; of the autoencoder only the decoder is kept. */
const PARAMETERS = {
  transformer: { large: 8_146_280_768, 'large-turbo': 8_146_280_768, medium: 2_469_663_936 },
  clip_l: { 'single-file': 123_060_480, diffusers: 123_060_480 + 589_824 },
  clip_g: 694_659_840,
  t5: 4_762_310_656,
  vae: 83_819_683,
}

let scratch = ''
const opened = new Map<string, Checkpoint>()
const get = (name: PublishedModel, layout: Layout) => opened.get(`${name}.${layout}`)!

beforeAll(async () => {
  scratch = await mkdtemp(path.join(os.tmpdir(), 'octet-headers-'))
  for (const name of PUBLISHED) {
    for (const layout of ['single-file', 'diffusers'] as const) {
      const directory = path.join(scratch, `${name}.${layout}`)
      opened.set(`${name}.${layout}`, await openCheckpoint(await writeSparseCheckpoint(directory, name, layout)))
    }
  }
})
afterAll(() => rm(scratch, { recursive: true, force: true }))

const countElements = ({ shape }: Tensor) => shape.reduce((product, axis) => product * axis, 1)
const count = (tensors: Map<string, Tensor>) =>
  [...tensors.values()].reduce((sum, tensor) => sum + countElements(tensor), 0)
const listShapes = (tensors: Map<string, Tensor>) => new Map([...tensors].map(([name, { shape }]) => [name, shape]))

describe.each(PUBLISHED)('the published %s', (name) => {
  it.each(['single-file', 'diffusers'] as const)('has every parameter in the %s layout', (layout) => {
    const { networks, ...checkpoint } = get(name, layout)
    expect(Object.values(checkpoint.sources).map((source) => source.layout)).toEqual(Array(5).fill(layout))
    expect(count(networks.transformer!)).toBe(PARAMETERS.transformer[name])
    expect(count(networks.clip_l!)).toBe(PARAMETERS.clip_l[layout])
    expect(count(networks.clip_g!)).toBe(PARAMETERS.clip_g)
    expect(count(networks.t5!)).toBe(PARAMETERS.t5)
    expect(count(networks.vae!)).toBe(PARAMETERS.vae)
  })

  it('has the same names and shapes in both layouts', () => {
    const single = get(name, 'single-file').networks
    const diffusers = get(name, 'diffusers').networks
    for (const network of ['transformer', 'clip_g', 't5', 'vae'] as const) {
      expect(listShapes(diffusers[network]!)).toEqual(listShapes(single[network]!))
    }
    const clip = listShapes(diffusers.clip_l!)
    expect(clip.get('text_projection.weight')).toEqual([768, 768])
    clip.delete('text_projection.weight')
    expect(clip).toEqual(listShapes(single.clip_l!))
  })

  it.each(['single-file', 'diffusers'] as const)('reads no byte of the %s layout twice', (layout) => {
    const parts = Object.values(get(name, layout).networks).flatMap((tensors) =>
      [...tensors.values()].flatMap((tensor) => {
        expect(tensor.parts.reduce((sum, part) => sum + part.bytes, 0)).toBe(2 * countElements(tensor))
        return tensor.parts
      }),
    )
    const sorted = parts.toSorted((a, b) => (a.file === b.file ? a.offset - b.offset : a.file < b.file ? -1 : 1))
    sorted.slice(1).forEach((part, i) => {
      const before = sorted[i]!
      if (before.file === part.file) expect(before.offset + before.bytes).toBeLessThanOrEqual(part.offset)
    })
  })
})

describe('the diffusers layout', () => {
  it('contains the configurations', () => {
    const { config } = get('medium', 'diffusers')
    expect(config.transformer).toMatchObject({ num_layers: 24, pos_embed_max_size: 384 })
    expect(config.scheduler).toMatchObject({ shift: 3 })
    expect(get('medium', 'single-file').config).toEqual({})
  })

  it('splits the transformer of Large into two shards', () => {
    const { transformer } = get('large', 'diffusers').networks
    const files = new Set(
      [...transformer!.values()].flatMap(({ parts }) => parts.map(({ file }) => path.basename(file))),
    )
    expect(files.size).toBe(2)
  })
})
