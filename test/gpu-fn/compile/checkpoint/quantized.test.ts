// Quantized checkpoints that the formats' own libraries wrote; test/golden/scripts/quantized_formats.py.
import { createHash } from 'node:crypto'
import { copyFile, readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { closeFiles, readFloat32 } from '../../../../gpu-fn/compile/checkpoint/formats/read-tensor.ts'
import { readHeader } from '../../../../gpu-fn/compile/checkpoint/formats/safetensors.ts'
import type { Tensor } from '../../../../gpu-fn/compile/checkpoint/tensor.ts'
import { compile } from '../../../../gpu-fn/compile/compile.ts'
import type { Manifest } from '../../../../gpu-fn/manifest.ts'
import { openCheckpoint } from '../../../../gpu-fn/models/sd35/sd35.ts'
import { writeTinyCheckpoint } from '../../../../infra/checkpoints/tiny/checkpoint.ts'
import { convertTransformerToDiffusers } from '../../../../infra/checkpoints/tiny/diffusers-layout.ts'
import { type RenderRequest, render, withPipeline } from '../../../../infra/local/models/render.ts'
import { compareDifferences, readPixels } from '../../../../infra/receipts/compare-images.ts'
import { editJson } from '../../../support/checkpoints/edit.ts'
import { useScratch } from '../../../support/scratch.ts'

const GOLDEN = path.join(import.meta.dirname, '../../../golden/quantized')
const resolveGolden = (name: string) => path.join(GOLDEN, name)
const readJson = async (name: string) => JSON.parse(await readFile(resolveGolden(name), 'utf8'))
/** The SHA-256 of each tensor as the library dequantizes it, by its name in the diffusers layout. */
const DIGESTS: Record<string, Record<string, string>> = await readJson('digests.json')
const REQUEST: RenderRequest = await readJson('request.json')

const scratch = useScratch()
const resolvePath = (name: string) => path.join(scratch.directory, name)

const FOLDERS = { transformer: 'transformer', t5: 'text_encoder_3' } as const
const networkOf = (file: string) => (file.startsWith('t5') ? 't5' : 'transformer')

/** The paths of tiny-small with one network from a quantized file. */
async function quantizeFile(file: string): Promise<string[]> {
  const base = await writeTinyCheckpoint(resolvePath('base'), { variant: 'tiny-small' })
  const folder = FOLDERS[networkOf(file)]
  if (/^(torchao|quanto|modelopt)/.test(file)) {
    await copyFile(resolveGolden(file), path.join(base, folder, 'diffusion_pytorch_model.safetensors'))
    return [base]
  }
  await rm(path.join(base, folder), { recursive: true })
  await editJson(path.join(base, 'model_index.json'), { [folder]: undefined })
  return [base, resolveGolden(file)]
}

function readValues(tensor: Tensor): Float32Array {
  const [rows = 1, ...rest] = tensor.shape
  return readFloat32({ tensor, start: 0, end: rows, columns: rest.reduce((product, axis) => product * axis, 1) })
}

const sha256 = (data: Float32Array) =>
  createHash('sha256')
    .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    .digest('hex')

/** The digests of a network as it is read, under the names of the diffusers layout. */
async function digestsOf(file: string): Promise<Record<string, string>> {
  const network = networkOf(file)
  const { networks } = await openCheckpoint([resolveGolden(file)])
  const tensors = [...networks[network]!.values()].map((tensor) => ({ ...tensor, data: readValues(tensor) }))
  closeFiles()
  const named =
    network === 'transformer' && file !== 'blocks.gguf' ? convertTransformerToDiffusers(tensors, 2) : tensors
  return Object.fromEntries(named.map(({ name, data }) => [name, sha256(data)]).sort(([a], [b]) => (a! < b! ? -1 : 1)))
}

const FILES = Object.keys(DIGESTS)
/** All but random blocks of every type. */
const CHECKPOINTS = FILES.filter((file) => file !== 'blocks.gguf')

describe('quantized files', () => {
  it.each(FILES)('are dequantized to the values of their library, bit for bit: %s', async (file) => {
    expect(await digestsOf(file)).toEqual(DIGESTS[file])
  })

  it.each(CHECKPOINTS)('produce the same image as diffusers with these values: %s', async (file) => {
    const out = resolvePath('package')
    await compile({ checkpoint: await quantizeFile(file), out, tier: 'fp32', target: 'cpu', variant: 'custom' })
    const image = await withPipeline(out, (pipeline) => render(pipeline, REQUEST))
    const { largest, share } = compareDifferences(
      await readPixels(image),
      await readPixels(resolveGolden(`${path.parse(file).name}.png`)),
    )
    expect(largest).toBeLessThanOrEqual(2)
    expect(share).toBeLessThan(0.005)
  })
})

/** A weight of a package's weights file. */
async function readStored(directory: string, network: string, name: string): Promise<Buffer> {
  const manifest: Manifest = JSON.parse(await readFile(path.join(directory, 'manifest.json'), 'utf8'))
  const file = manifest.networks[network as keyof Manifest['networks']]!.weights!
  const found = manifest.weights[file]!.find((weight) => weight.name === name)!
  const size = found.shape.reduce((product, axis) => product * axis, found.dtype === 'float32' ? 4 : 1)
  return (await readFile(path.join(directory, file))).subarray(found.offset, found.offset + size)
}

describe('the codes of an FP8 checkpoint', () => {
  it.each([
    ['torchao.safetensors', '._weight_qdata', '._weight_scale'],
    ['quanto.safetensors', '.weight._data', '.weight._scale'],
    ['modelopt-export.safetensors', '.weight', '.weight_scale'],
  ])('are stored unchanged, with their scales: %s', async (file, codes, scale) => {
    const out = resolvePath('package')
    await compile({ checkpoint: await quantizeFile(file), out, tier: 'fp8', target: 'cpu', variant: 'custom' })
    const { tensors } = await readHeader(resolveGolden(file))
    const bytes = await readFile(resolveGolden(file))
    const bytesOf = (name: string) => {
      const { offset, bytes: size } = tensors.get(`transformer_blocks.0.ff.net.0.proj${name}`)!
      return bytes.subarray(offset, offset + size)
    }
    const name = 'joint_blocks.0.x_block.mlp.fc1.weight'
    expect(Buffer.compare(await readStored(out, 'transformer', name), bytesOf(codes))).toBe(0)
    const stored = await readStored(out, 'transformer', `${name}.scale`)
    const given = bytesOf(scale)
    expect(Buffer.compare(stored, given.length === 4 ? Buffer.concat(Array(128).fill(given)) : given)).toBe(0)
  })
})
