import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../../../../gpu-fn/models/sd35/sd35.ts'
import { refusal } from '../../../../support/checkpoints/refusal.ts'
import { useScratch } from '../../../../support/scratch.ts'

const scratch = useScratch()

/** As GitHub and the Hugging Face hub store large files in Git. */
const POINTER = `version https://git-lfs.github.com/spec/v1\noid sha256:${'0'.repeat(64)}\nsize 16460379262\n`
const PAGE = '<!DOCTYPE html>\n<html class=""><head><title>Access gated model</title>'
const GATED = 'Access to model stabilityai/stable-diffusion-3.5-large is restricted. You must have access to it.'
/** torch.save since 1.6: a ZIP archive with a pickle. */
const ZIP = Buffer.concat([Buffer.from('PK\u0003\u0004'), Buffer.alloc(26), Buffer.from('archive/data.pkl')])
/** torch.save before 1.6: the pickled magic number. */
const PICKLE = Buffer.from('80028a0a6cfc9c46f9206aa850192e', 'hex')
const ONNX = Buffer.from('08081207707974', 'hex')

const KINDS: [kind: string, content: string | Uint8Array, message: RegExp][] = [
  ['an empty file', '', /is empty: its download did not finish; download it again/],
  ['a Git LFS pointer', POINTER, /is a Git LFS pointer \(to 16460379262 bytes\).*`git lfs pull` or `hf download`/],
  ['a web page', PAGE, /is a web page and not a checkpoint. A gated model sends one: accept its license/],
  ['a refusal of the hub', GATED, /is an error message, "Access to model .*, and not a checkpoint.*`hf auth login`/],
  ['an error in JSON', '{"error":"Invalid credentials"}', /is an error message, "\{\\"error\\"/],
  ['a pickle in a ZIP archive', ZIP, /is a PyTorch pickle .* can run any code.*safetensors/],
  ['a bare pickle', PICKLE, /is a PyTorch pickle/],
  ['a ZIP archive', Buffer.from('PK\u0003\u0004 a'), /is a ZIP archive; unpack it/],
  ['a gzip archive', gzipSync('weights'), /is a gzip archive; unpack it/],
  ['an ONNX graph', ONNX, /is an ONNX graph; give the checkpoint/],
  ['a TensorRT engine', 'ftrt\0\0\0\0', /is a TensorRT engine/],
  [
    'a big-endian GGUF file',
    Buffer.from('47475546000000030000000000000000'.padEnd(48, '0'), 'hex'),
    /is a big-endian GGUF/,
  ],
  ['a few bytes', 'abc', /3 bytes are too few for a safetensors file/],
  [
    'a text',
    'A list of prompts\n',
    /begins with "A list of prompt", so it is neither a safetensors nor a GGUF file; download it again/,
  ],
  [
    'an image',
    Buffer.from('\u0089PNG\r\n\u001a\nIHDR', 'latin1'),
    /begins with "\\u0089PNG\\r\\n\\u001a\\nIHDR", so it is neither/,
  ],
]

describe('files that are not checkpoints', () => {
  it.each(KINDS)('are identified in an error with advice: %s', async (_, content, message) => {
    const file = path.join(scratch.directory, 'sd3.5_large.safetensors')
    await writeFile(file, content)
    expect(await refusal(openCheckpoint([file]))).toMatch(message)
  })

  it.each(['sd3.5_large.ckpt', 'model.pt', 'pytorch_model.bin', 'model.onnx', 'a name without extension'])(
    'are identified regardless of their file name: %s',
    async (name) => {
      const file = path.join(scratch.directory, name)
      await writeFile(file, PICKLE)
      expect(await refusal(openCheckpoint([file]))).toMatch('is a PyTorch pickle')
    },
  )

  it('are identified in a diffusers directory', async () => {
    const folder = path.join(scratch.directory, 'transformer')
    await mkdir(folder)
    await writeFile(path.join(folder, 'diffusion_pytorch_model.safetensors'), POINTER)
    expect(await refusal(openCheckpoint([scratch.directory]))).toMatch('is a Git LFS pointer')
  })

  it('do not include a safetensors file whose header length resembles a pickle', async () => {
    const json = '{}'.padEnd(0x280, ' ')
    const file = path.join(scratch.directory, 'x.safetensors')
    await writeFile(
      file,
      Buffer.concat([Buffer.from(BigUint64Array.of(BigInt(json.length)).buffer), Buffer.from(json)]),
    )
    expect(await refusal(openCheckpoint([file]))).toMatch('has no tensors')
  })
})
