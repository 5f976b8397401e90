// Request bodies of other APIs than OpenAI's, as applications send them, to the worker as shipped: each reply must be one that its
// application can read.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { type Caller, newCaller } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { fetchShipped } from '../support/shipped.ts'

beforeEach(() => void fakeGpu(works))
afterEach(() => vi.restoreAllMocks())

type Body = Record<string, unknown>
/** Throws if the application cannot read the reply. */
type ReplyReader = (reply: Response) => Promise<void>
type Row = [
  application: string,
  path: string,
  body: Body | (() => FormData),
  read: ReplyReader,
  headers?: Record<string, string>,
]

const isBase64 = (text: unknown) => expect(Uint8Array.fromBase64(text as string).length).toBeGreaterThan(0)
const isFile = async (url: unknown) => expect((await fetchShipped(url as string)).status).toBe(200)
const jsonOf = async <T>(reply: Response) => (await reply.json()) as T

/** Open WebUI reads both members, SillyTavern the first, and plugins of Krita the seed of `info`. */
const readsA1111: ReplyReader = async (reply) => {
  const { images, info } = await jsonOf<{ images: string[]; info: string }>(reply)
  for (const each of images) isBase64(each)
  expect(JSON.parse(info)).toMatchObject({ seed: expect.any(Number), all_seeds: expect.any(Array) })
}
const readsPrediction: ReplyReader = async (reply) => {
  const { id, status, output, urls } = await jsonOf<{ id: string; status: string; output: string[]; urls: object }>(
    reply,
  )
  expect([status, typeof id]).toEqual(['succeeded', 'string'])
  expect(urls).toMatchObject({ get: expect.any(String), cancel: expect.any(String), stream: expect.any(String) })
  for (const url of output) await isFile(url)
}
const readsFal: ReplyReader = async (reply) => {
  const { images, seed } = await jsonOf<{ images: { url: string; width: number }[]; seed: number }>(reply)
  expect(seed).toEqual(expect.any(Number))
  for (const { url, width } of images) {
    expect(width).toBeGreaterThan(0)
    if (!url.startsWith('data:')) await isFile(url)
  }
}
const readsQueued: ReplyReader = async (reply) => {
  const status = await jsonOf<{ request_id: string; status_url: string; response_url: string }>(reply)
  expect(status).toMatchObject({ status: expect.stringMatching(/^IN_/), request_id: expect.any(String) })
  expect(status.status_url).toBe(`${status.response_url}/status`)
}
const readsBytes: ReplyReader = async (reply) => {
  expect(reply.headers.get('content-type')).toMatch(/^image\/(png|jpeg|webp)$/)
  expect((await reply.bytes()).length).toBeGreaterThan(0)
}
const readsStabilityJson: ReplyReader = async (reply) => {
  const { image, seed, finish_reason } = await jsonOf<{ image: string; seed: number; finish_reason: string }>(reply)
  isBase64(image)
  expect([finish_reason, typeof seed]).toEqual(['SUCCESS', 'number'])
}

const prompt = 'a red heart on a blue sky'
const TXT2IMG = '/sdapi/v1/txt2img'
const SD3 = '/v2beta/stable-image/generate/sd3'
const wait = { prefer: 'wait' }

const formOf = (fields: Record<string, string>) => () => {
  const form = new FormData()
  for (const [name, value] of Object.entries(fields)) form.append(name, value)
  // Python's requests sends a form only with a file.
  form.append('none', new Blob([]))
  return form
}

const BODIES: Row[] = [
  ['Open WebUI by A1111', TXT2IMG, { prompt, batch_size: 1, width: 512, height: 512 }, readsA1111],
  [
    'Open WebUI by A1111 with all settings',
    TXT2IMG,
    {
      ...{ prompt, batch_size: 1, width: 1024, height: 1024, steps: 20, negative_prompt: 'blur' },
      ...{ cfg_scale: 7, sampler_name: 'Euler a', scheduler: 'Karras' },
    },
    readsA1111,
  ],
  [
    'SillyTavern by A1111',
    TXT2IMG,
    {
      ...{ prompt, negative_prompt: '', sampler_name: 'Euler a', scheduler: 'Automatic', steps: 20, cfg_scale: 7 },
      ...{ width: 512, height: 512, restore_faces: false, enable_hr: false, hr_upscaler: 'Latent', hr_scale: 2 },
      ...{ hr_additional_prompt: '', denoising_strength: 0.7, hr_second_pass_steps: 0, seed: -1, clip_skip: 1 },
      ...{ override_settings: { CLIP_stop_at_last_layers: 1, sd_vae: 'Automatic', forge_additional_modules: [] } },
      ...{ override_settings_restore_afterwards: true, save_images: true, send_images: true, do_not_save_grid: false },
    },
    readsA1111,
  ],
  [
    'LibreChat’s Stable Diffusion tool',
    TXT2IMG,
    { prompt, negative_prompt: 'blur', cfg_scale: 4.5, steps: 22, width: 1024, height: 1024 },
    readsA1111,
  ],
  [
    'a plugin of Krita',
    TXT2IMG,
    {
      ...{ prompt, negative_prompt: '', sampler_name: 'DPM++ 2M', sampler_index: 'DPM++ 2M', steps: 20, cfg_scale: 7 },
      ...{
        seed: 12,
        subseed: -1,
        subseed_strength: 0,
        batch_size: 1,
        n_iter: 1,
        width: 640,
        height: 448,
        tiling: false,
      },
      ...{ styles: [], restore_faces: false, eta: 0, s_churn: 0, s_tmin: 0, s_noise: 1, script_name: null },
      ...{ script_args: [], alwayson_scripts: {}, override_settings: { sd_model_checkpoint: 'nano [0123456789]' } },
    },
    readsA1111,
  ],
  [
    'a chat bot by A1111',
    TXT2IMG,
    { prompt, sampler_index: 'Euler', n_iter: 2, steps: 12, width: 768, height: 512, enable_hr: 'false', tiling: null },
    readsA1111,
  ],
  [
    'a client of Forge',
    TXT2IMG,
    {
      prompt,
      distilled_cfg_scale: 3.5,
      cfg_scale: 1,
      steps: 8,
      width: 896,
      height: 1152,
      scheduler: 'Simple',
      seed: 5,
    },
    readsA1111,
  ],
  [
    'Replicate’s SD 3.5 schema',
    '/v1/models/stability-ai/nano/predictions',
    {
      input: {
        ...{ prompt, cfg: 4.5, steps: 20, aspect_ratio: '16:9', output_format: 'webp', output_quality: 90 },
        ...{ prompt_strength: 0.85, seed: 4 },
      },
    },
    readsPrediction,
    wait,
  ],
  [
    'Replicate’s FLUX schema',
    '/v1/models/black-forest-labs/nano-turbo/predictions',
    {
      input: {
        ...{ prompt, go_fast: true, megapixels: '1', num_outputs: 1, aspect_ratio: '1:1', output_format: 'jpg' },
        ...{ output_quality: 80, num_inference_steps: 4, disable_safety_checker: true },
      },
    },
    readsPrediction,
    { prefer: 'wait=60' },
  ],
  [
    'Replicate’s SDXL schema by a version',
    '/v1/predictions',
    {
      version: '7762fd07cf82c948538e41f63f77d685e02b063e37e496e96eefd46c929f9bdc',
      input: {
        ...{
          prompt,
          width: 768,
          height: 768,
          refine: 'expert_ensemble_refiner',
          scheduler: 'K_EULER',
          lora_scale: 0.6,
        },
        ...{ num_outputs: 1, guidance_scale: 7.5, apply_watermark: false, high_noise_frac: 0.8, negative_prompt: '' },
      },
    },
    readsPrediction,
    wait,
  ],
  [
    'a workflow that names an owner and a model',
    '/v1/predictions',
    { version: 'octet/nano', input: { prompt, image: null, seed: 0 }, stream: false },
    readsPrediction,
    wait,
  ],
  [
    'LobeHub by fal',
    '/fal/run/fal-ai/nano',
    { prompt, enable_safety_checker: false, num_images: 1, image_size: { width: 1024, height: 1024 }, seed: 7 },
    readsFal,
  ],
  [
    'the AI SDK by fal',
    '/fal/run/fal-ai/nano-turbo',
    { prompt, seed: 3, image_size: 'square_hd', num_images: 2 },
    readsFal,
  ],
  [
    'fal’s SD 3.5 schema',
    '/fal/run/fal-ai/nano',
    {
      ...{ prompt, negative_prompt: '', num_inference_steps: 28, guidance_scale: 4.5, image_size: 'landscape_4_3' },
      ...{ num_images: 1, output_format: 'jpeg', sync_mode: true, loras: [], enable_safety_checker: true },
    },
    readsFal,
  ],
  [
    'a queue of fal with acceleration',
    '/fal/queue/fal-ai/nano-turbo',
    { prompt, image_size: 'portrait_16_9', acceleration: 'regular', num_inference_steps: 4, seed: null },
    readsQueued,
  ],
  ['Stability’s example in Python', SD3, formOf({ prompt, output_format: 'jpeg' }), readsBytes, { accept: 'image/*' }],
  [
    'Dify’s Stability tool',
    SD3,
    formOf({
      prompt,
      aspect_ratio: '16:9',
      mode: 'text-to-image',
      seed: '0',
      output_format: 'png',
      negative_prompt: '',
    }),
    readsBytes,
    { accept: 'image/*' },
  ],
  [
    'ComfyUI’s Stability node',
    SD3,
    formOf({ prompt, negative_prompt: 'blur', aspect_ratio: '1:1', seed: '12', cfg_scale: '4', style_preset: 'anime' }),
    readsStabilityJson,
    { accept: 'application/json', 'stability-client-id': 'comfy' },
  ],
  ['Hugging Face in Python', '/hf/nano', { inputs: prompt, parameters: {} }, readsBytes, { accept: 'image/png' }],
  [
    'Hugging Face with all parameters',
    '/hf/stabilityai/nano',
    {
      inputs: prompt,
      parameters: {
        ...{ negative_prompt: 'blur', height: 768, width: 1024, num_inference_steps: 20, guidance_scale: 4, seed: 42 },
        scheduler: 'EulerDiscreteScheduler',
      },
    },
    readsBytes,
  ],
  ['an old Inference API client', '/hf/nano-turbo', { inputs: prompt, options: { wait_for_model: true } }, readsBytes],
]

const createAuthorization = (path: string, { key }: Caller) => {
  if (path.startsWith('/sdapi')) return `Basic ${btoa(`octet:${key}`)}`
  return `${path.startsWith('/fal') ? 'Key' : 'Bearer'} ${key}`
}

describe('a reply is readable by', () => {
  test.for(BODIES)('%s', async ([, path, body, read, headers = {}]) => {
    const caller = await newCaller()
    const isForm = typeof body === 'function'
    const response = await fetchShipped(path, {
      method: 'POST',
      headers: {
        ...{ authorization: createAuthorization(path, caller), ...headers },
        ...(!isForm && { 'content-type': 'application/json' }),
      },
      body: isForm ? body() : JSON.stringify(body),
    })
    if (!response.ok) expect(await response.text()).toBe('')
    await read(response)
  })
})
