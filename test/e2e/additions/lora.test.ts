// Adapters through the worker and the GPU function, in the native API and in two dialects.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { JSONWebKeySet } from 'jose'
import sharp from 'sharp'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openReceipt } from '../../../edge/results/receipt.ts'
import { openLora } from '../../../gpu-fn/weights/additions/lora-packages.ts'
import { type Local, startLocal } from '../../../infra/local/local.ts'
import { serveLoras } from '../../../infra/local/models/served-loras.ts'
import { serveModels } from '../../../infra/local/models/served-models.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { LORAS } from '../../support/lora-outputs.ts'

let scratch: string
let local: Local
const digests: Record<string, string> = {}
beforeAll(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), 'octet-lora-'))
  const source = { kind: 'package', given: await compileTiny({ tier: 'fp8' }) } as const
  const models = await serveModels([source], path.join(scratch, 'packages'), { tier: 'fp8', target: 'cpu' })
  const files = ['kohya', 'everything'].map((name) => path.join(LORAS, `${name}.safetensors`))
  const loras = await serveLoras(files, models.packages)
  for (const { id } of loras) digests[id] = (await openLora(path.join(models.packages, 'loras', id))).digest
  const size = { width: 64, height: 64, max_pixels: 64 * 64 }
  local = await startLocal({
    models: {
      ...models,
      offers: [{ route: 'turbo', model: 'custom', tier: 'fp8', steps: 2, guidance_scale: 1, ...size }],
      loras: [...loras, { id: 'absent', models: ['custom'] }],
    },
  })
})
afterAll(async () => {
  await local.stop()
  await rm(scratch, { recursive: true })
})

async function post(at: string, body: object, headers: Record<string, string> = {}) {
  const authorization = `Bearer ${local.key}`
  const response = await fetch(`${local.url}${at}`, {
    method: 'POST',
    headers: { authorization, 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
  return { status: response.status, json: (await response.json()) as Record<string, never> }
}

type ImageReply = { data: { b64_json: string }[]; octet: { job: string } }
const request = { prompt: 'a red heart', seed: 3, n: 2, response_format: 'b64_json' }

async function generate(loras?: { id: string; scale?: number }[]): Promise<ImageReply> {
  const { json } = await post('/v1/images/generations', { ...request, ...(loras && { loras }) })
  return json as unknown as ImageReply
}
const pixelsOf = (file: Buffer) => sharp(file).raw().toBuffer()
const imagesOf = ({ data }: ImageReply) =>
  Promise.all(data.map(({ b64_json }) => pixelsOf(Buffer.from(b64_json, 'base64'))))

test('all images of a job have its adapters, the next job has none, and the receipt names them', async () => {
  const base = await imagesOf(await generate())
  const made = await generate([{ id: 'kohya', scale: 1.5 }, { id: 'everything' }])
  const changed = await imagesOf(made)
  for (const [k, image] of changed.entries()) expect(image.equals(base[k]!)).toBe(false)
  expect(await imagesOf(await generate())).toEqual(base)

  const authorization = `Bearer ${local.key}`
  const get = async <T>(at: string) =>
    (await (await fetch(`${local.url}${at}`, { headers: { authorization } })).json()) as T
  const { data } = await get<{ data: { receipt: string }[] }>(`/v1/jobs/${made.octet.job}/receipts`)
  const { parameters } = await openReceipt(data[1]!.receipt, await get<JSONWebKeySet>('/.well-known/jwks.json'))
  expect(parameters.loras).toEqual([
    { id: 'kohya', scale: 1.5, package: digests.kohya },
    { id: 'everything', scale: 1, package: digests.everything },
  ])
})

test('A1111 and fal generate the same images as the native API', async () => {
  const [expected] = await imagesOf(await generate([{ id: 'kohya', scale: 0.8 }]))
  const a1111 = await post('/sdapi/v1/txt2img', {
    prompt: 'a red heart <lora:kohya:0.8>',
    seed: 3,
    width: 64,
    height: 64,
  })
  expect(await pixelsOf(Buffer.from(a1111.json.images![0]!, 'base64'))).toEqual(expected)
  const loras = [{ path: 'https://example.com/kohya.safetensors', scale: 0.8 }]
  const fal = await post('/fal/run/octet/custom', { prompt: 'a red heart', seed: 3, sync_mode: true, loras })
  const { images } = fal.json as unknown as { images: { url: string }[] }
  expect(await pixelsOf(Buffer.from(images[0]!.url.split(',')[1]!, 'base64'))).toEqual(expected)
})

test('an adapter missing on the GPU function fails the request as invalid', async () => {
  const { status, json } = await post('/v1/images/generations', { ...request, loras: [{ id: 'absent' }] })
  expect([status, json.detail]).toEqual([
    400,
    'lora "absent" has no package on this server, but the catalog lists it; the operator must install the package',
  ])
})
