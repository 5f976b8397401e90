import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { sourceOf } from '../../../infra/local/served-models.ts'
import { explain } from '../../../infra/weights/identify.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()

function withTensors(...names: string[]): Buffer {
  const header = Buffer.from(JSON.stringify(Object.fromEntries(names.map((name) => [name, {}]))))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([size, header])
}

test.each([
  ['version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'a Git LFS pointer. Run `git lfs pull`'],
  ['<!doctype html><title>Sign in</title>', 'an HTML page. The download needs a login'],
  ['GGUF\u0003', 'a GGUF file. Use the safetensors files'],
  [withTensors('transformer.blocks.0.attn.lora_A.weight'), 'a LoRA. Pass the checkpoint'],
  [withTensors('double_blocks.0.img_attn.qkv.weight'), 'a FLUX checkpoint. Only checkpoints of Stable Diffusion 3.5'],
  [withTensors('conditioner.embedders.0.transformer.x'), 'an SDXL checkpoint. Only'],
  [withTensors('model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight'), 'an SD3 Medium checkpoint. Use'],
])('%s', async (content, reason) => {
  const file = path.join(scratch.directory, 'model.safetensors')
  await writeFile(file, content)
  expect(await explain(file)).toContain(`${file} is ${reason}`)
  expect(await explain(scratch.directory)).toContain(`${file} is ${reason}`)
})

test('SD3.5 itself has no such explanation', async () => {
  const file = path.join(scratch.directory, 'model.safetensors')
  const block = 'model.diffusion_model.joint_blocks.0.x_block.attn'
  await writeFile(file, withTensors(`${block}.qkv.weight`, `${block}.ln_q.weight`))
  expect(await explain(file)).toBeNull()
})

test('a name that is neither a file nor a repository is refused', async () => {
  await expect(sourceOf('no-such-file')).rejects.toThrow('no-such-file: no such file or directory, and not the name')
  expect(await sourceOf('stabilityai/stable-diffusion-3.5-large', 'full')).toMatchObject({ kind: 'hub', route: 'full' })
})
