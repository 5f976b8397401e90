// A ControlNet through the worker and the GPU function, in the native API and in two dialects.
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { JSONWebKeySet } from 'jose'
import sharp from 'sharp'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openReceipt } from '../../../edge/results/receipt.ts'
import { readParameters } from '../../../gpu-fn/pipeline/image.ts'
import { openControlnet } from '../../../gpu-fn/weights/additions/controlnet-packages.ts'
import { type Local, startLocal } from '../../../infra/local/local.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { compileTinyControlnet } from '../../support/checkpoints/controlnet.ts'

let scratch: string
let local: Local
let edges: string
beforeAll(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), 'octet-controlnet-'))
  await cp(await compileTiny({ variant: 'tiny-large' }), path.join(scratch, 'custom'), { recursive: true })
  await compileTinyControlnet(path.join(scratch, 'controlnets', 'edges'), { type: 'canny' })
  // The pooled prompt of another variant has another width.
  await compileTinyControlnet(path.join(scratch, 'controlnets', 'other'), { type: 'depth', variant: 'tiny-medium' })
  edges = await readFile(path.join(import.meta.dirname, '../../golden/controlnet/edges.png'), 'base64')
  const size = { width: 64, height: 64, max_pixels: 64 * 64 }
  local = await startLocal({
    models: {
      packages: scratch,
      preload: ['custom:fp32'],
      offers: [{ route: 'turbo', model: 'custom', tier: 'fp32', steps: 2, guidance_scale: 1, ...size }],
      controlnets: ['edges', 'other', 'absent'].map((id) => ({ id, models: ['custom'] })),
    },
  })
})
afterAll(async () => {
  await local.stop()
  await rm(scratch, { recursive: true })
})

async function post(at: string, body: object) {
  const authorization = `Bearer ${local.key}`
  const headers = { authorization, 'content-type': 'application/json' }
  const response = await fetch(`${local.url}${at}`, { method: 'POST', headers, body: JSON.stringify(body) })
  return { status: response.status, json: (await response.json()) as Record<string, never> }
}

type ImageReply = { data: { b64_json: string }[]; octet: { job: string } }
const request = { prompt: 'a red heart', seed: 3, response_format: 'b64_json' }
const createControlledRequest = (image: string, id = 'edges') => ({
  ...request,
  controls: [{ id, image, scale: 0.8, stop: 0.9 }],
})

const fileOf = (base64: string) => Buffer.from(base64, 'base64')
const pixelsOf = (file: Buffer) => sharp(file).raw().toBuffer()

async function generate(body: object): Promise<{ file: Buffer; pixels: Buffer; job: string }> {
  const { json } = await post('/v1/images/generations', body)
  const made = json as unknown as ImageReply
  const file = fileOf(made.data[0]!.b64_json)
  return { file, pixels: await pixelsOf(file), job: made.octet.job }
}

test('a control image guides only its own job, and the receipt and the file name the ControlNet', async () => {
  const plain = await generate(request)
  const guided = await generate(createControlledRequest(edges))
  expect(guided.pixels.equals(plain.pixels)).toBe(false)
  expect((await generate(request)).pixels).toEqual(plain.pixels)
  // An image of an earlier job is a control image too, and a different one produces a different result.
  const own = await generate(createControlledRequest(plain.job))
  expect(own.pixels.equals(guided.pixels)).toBe(false)

  const choice = { id: 'edges', scale: 0.8, stop: 0.9 }
  expect((await readParameters(guided.file))?.controls).toEqual([choice])
  const authorization = `Bearer ${local.key}`
  const get = async <T>(at: string) =>
    (await (await fetch(`${local.url}${at}`, { headers: { authorization } })).json()) as T
  const { data } = await get<{ data: { receipt: string }[] }>(`/v1/jobs/${guided.job}/receipts`)
  const { parameters, inputs } = await openReceipt(data[0]!.receipt, await get<JSONWebKeySet>('/.well-known/jwks.json'))
  const { digest } = await openControlnet(path.join(scratch, 'controlnets', 'edges'))
  expect(parameters.controls).toEqual([{ ...choice, package: digest }])
  expect(inputs).toEqual([{ name: 'control', sha256: expect.stringMatching(/^[0-9a-f]{64}$/) }])
})

test('A1111 and fal generate the same image as the native API', async () => {
  const body = { prompt: 'a red heart', seed: 3 }
  const expected = (await generate({ ...createControlledRequest(edges), image_fit: 'crop' })).pixels
  const unit = { model: 'edges [8a1f]', module: 'none', image: edges, weight: 0.8, guidance_end: 0.9 }
  const alwayson_scripts = { ControlNet: { args: [unit] } }
  const a1111 = await post('/sdapi/v1/txt2img', { ...body, width: 64, height: 64, alwayson_scripts })
  expect(await pixelsOf(fileOf(a1111.json.images![0]!))).toEqual(expected)
  const controlnets = [
    {
      ...{ path: 'https://example.com/edges.safetensors', control_image_url: `data:image/png;base64,${edges}` },
      ...{ conditioning_scale: 0.8, end_percentage: 0.9 },
    },
  ]
  const fal = await post('/fal/run/octet/custom', { ...body, sync_mode: true, controlnets })
  const { images } = fal.json as unknown as { images: { url: string }[] }
  expect(await pixelsOf(fileOf(images[0]!.url.split(',')[1]!))).toEqual(expected)
})

test.each([
  [
    'absent',
    'controlnet "absent" has no package on this server, but the catalog lists it; the operator must install the package',
  ],
  ['other', 'controlnet other does not fit custom: it is for width 128, and the model has 96'],
])('the ControlNet %s fails the request as invalid', async (id, message) => {
  const { status, json } = await post('/v1/images/generations', createControlledRequest(edges, id))
  expect([status, json.detail]).toEqual([400, message])
})

test('a damaged control image fails the request as invalid', async () => {
  const damaged = fileOf(edges).subarray(0, 60).toString('base64')
  const { status, json } = await post('/v1/images/generations', createControlledRequest(damaged))
  expect([status, json.detail]).toEqual([400, expect.stringMatching(/^control: the file is damaged/)])
})
