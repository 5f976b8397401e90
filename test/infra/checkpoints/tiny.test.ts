import { createHash } from 'node:crypto'
import { glob, mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readHeader } from '../../../gpu-fn/compile/checkpoint/formats/safetensors.ts'
import type { Checkpoint, Tensor } from '../../../gpu-fn/compile/checkpoint/tensor.ts'
import { openCheckpoint } from '../../../gpu-fn/models/sd35/sd35.ts'
import { type TinyOptions, writeTinyCheckpoint } from '../../../infra/checkpoints/tiny/checkpoint.ts'
import { TINY_VARIANTS, type TinyVariant } from '../../../infra/checkpoints/tiny/variants.ts'

const GOLDEN = path.join(import.meta.dirname, '../../golden')
/** The golden outputs of tiny-small are those of its quantized copies. */
const createdWithOf = (variant: TinyVariant) =>
  path.join(GOLDEN, variant === 'tiny-small' ? 'quantized' : 'networks', 'made-with.json')
const variants = Object.keys(TINY_VARIANTS) as TinyVariant[]

let root: string
beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'octet-tiny-'))
})
afterAll(() => rm(root, { recursive: true }))

const write = async (options: TinyOptions) =>
  writeTinyCheckpoint(await mkdtemp(path.join(root, 'checkpoint-')), options)

describe('writeTinyCheckpoint', () => {
  it.each(variants)('writes the bytes of %s from which the golden outputs were computed', async (variant) => {
    const { weights } = JSON.parse(await readFile(createdWithOf(variant), 'utf8')) as {
      weights: Record<string, string>
    }
    const expected = Object.entries(weights).filter(([file]) => file.startsWith(`${variant}/`))
    const digests = Object.entries(await computeWeightDigests(await write({ variant })))
    expect(digests.map(([file, digest]) => [`${variant}/${file}`, digest])).toEqual(expected)
  })

  it.each(variants.filter((variant) => variant !== 'tiny-odd'))(
    'gives both layouts of %s the same values',
    async (variant) => {
      const [directory, file] = await Promise.all([write({ variant }), write({ variant, layout: 'single-file' })])
      const [diffusers, single] = await Promise.all([openCheckpoint([directory]), openCheckpoint([file])])
      const values = await valuesOf(diffusers)
      // A single file's is stored as well, but not read.
      values.delete('clip_l text_projection.weight')
      expect(await valuesOf(single)).toEqual(values)
    },
  )

  it('draws different values for different seeds', async () => {
    const [one, other] = await Promise.all([write({ seed: 1 }), write({ seed: 2 })])
    expect(await computeWeightDigests(other)).not.toEqual(await computeWeightDigests(one))
  })

  it('omits T5 on request', async () => {
    const { networks, tokenizers } = await openCheckpoint([await write({ t5: false })])
    expect(Object.keys(networks).sort()).toEqual(['clip_g', 'clip_l', 'transformer', 'vae'])
    expect(Object.keys(tokenizers).sort()).toEqual(['tokenizer', 'tokenizer_2'])
  })

  it.each(['F32', 'F16', 'BF16'] as const)('stores every tensor as %s', async (dtype) => {
    const { tensors } = await readHeader(await write({ layout: 'single-file', dtype }))
    expect(new Set([...tensors.values()].map((tensor) => tensor.dtype))).toEqual(new Set([dtype]))
  })
})

async function computeWeightDigests(directory: string): Promise<Record<string, string>> {
  const digests: Record<string, string> = {}
  for await (const file of glob('*/*.safetensors', { cwd: directory })) {
    digests[file] = createHash('sha256')
      .update(await readFile(path.join(directory, file)))
      .digest('hex')
  }
  return Object.fromEntries(Object.entries(digests).sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** Network and name → shape and digest of the bytes. */
async function valuesOf({ networks }: Checkpoint): Promise<Map<string, string>> {
  const values = new Map<string, string>()
  for (const [network, tensors] of Object.entries(networks)) {
    for (const [name, tensor] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1))) {
      values.set(`${network} ${name}`, `${tensor.shape.join()} ${await digestOf(tensor)}`)
    }
  }
  return new Map([...values].sort(([a], [b]) => (a < b ? -1 : 1)))
}

async function digestOf({ parts }: Tensor): Promise<string> {
  const hash = createHash('sha256')
  for (const { file, offset, bytes } of parts) {
    await using handle = await open(file)
    const { buffer } = await handle.read(Buffer.alloc(bytes), 0, bytes, offset)
    hash.update(buffer)
  }
  return hash.digest('hex')
}
