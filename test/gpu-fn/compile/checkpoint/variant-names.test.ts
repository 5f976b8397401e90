// The variant of a checkpoint, by the name of its own folder or file and by no other part of a path.
import { cp, mkdir, symlink } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { type CompileOptions, compile } from '../../../../gpu-fn/compile/compile.ts'
import { editJson } from '../../../support/checkpoints/edit.ts'
import { useScratch } from '../../../support/scratch.ts'

const NANO = path.join(import.meta.dirname, '../../../../gpu-fn/nano')
const scratch = useScratch()

async function compileFrom(checkpoint: string[], options: Partial<CompileOptions> = {}) {
  const out = path.join(scratch.directory, 'package')
  const compiled = await compile({ checkpoint, out, tier: 'fp8', target: 'cpu', omitT5: true, ...options })
  return { ...compiled.manifest, reason: compiled.notes.find((note) => note.startsWith('Variant ')) }
}

/** A link to nano's checkpoint. */
async function link(...names: string[]): Promise<string> {
  const at = path.join(scratch.directory, ...names)
  await mkdir(path.dirname(at), { recursive: true })
  await symlink(NANO, at)
  return at
}

test.each([
  [['turbo-disk', 'nano-1.0'], 'nano', 28],
  [['disk', 'nano-turbo-1.0'], 'nano-turbo', 4],
  [['turbo', 'models--owner--nano', 'snapshots', '0123456789abcdef'], 'nano', 28],
  [['x', 'models--owner--nano-turbo', 'snapshots', '0123456789abcdef'], 'nano-turbo', 4],
])('%j is %s', async (names, variant, steps) => {
  const absolute = await link(...names)
  for (const given of [absolute, path.relative(process.cwd(), absolute)]) {
    const manifest = await compileFrom([given])
    expect([manifest.variant, manifest.defaults.steps]).toEqual([variant, steps])
    expect(manifest.reason).toMatch(new RegExp(`^Variant ${variant} \\(${steps} steps, guidance \\d\\): .*name "nano`))
  }
})

test('the folder of an encoder and the folder above a transformer file do not count', async () => {
  const encoders = await link('turbo', 'encoders')
  const transformer = path.join(scratch.directory, 'turbo', 'fine-tune.safetensors')
  await cp(path.join(NANO, 'transformer/diffusion_pytorch_model.safetensors'), transformer)
  const { variant, reason } = await compileFrom([encoders, transformer])
  expect(variant).toBe('nano')
  expect(reason).toMatch(
    'the name "fine-tune.safetensors" matches no other variant of this shape; --variant selects nano-turbo',
  )
})

test('the size of an image is that of config.json', async () => {
  const checkpoint = path.join(scratch.directory, 'small')
  await cp(NANO, checkpoint, { recursive: true })
  await editJson(path.join(checkpoint, 'transformer/config.json'), { sample_size: 16 })
  for (const variant of [undefined, 'nano-turbo'])
    expect((await compileFrom([checkpoint], { variant })).defaults).toMatchObject({ width: 128, height: 128 })
})
