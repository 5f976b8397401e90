// The API of stable-diffusion-webui, as Open WebUI, SillyTavern and Krita call it.
import { afterEach, describe, test, vi } from 'vitest'
import { type Caller, newCaller, send } from '../support/client.ts'
import { fakeGpu, imageBytes, untilCanceled, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const basic = ({ key }: Pick<Caller, 'key'>) => ({ headers: { authorization: `Basic ${btoa(`octet:${key}`)}` } })
const post = (caller: Pick<Caller, 'key'>, body: object, path = 'txt2img') =>
  send('POST', `/sdapi/v1/${path}`, basic(caller), body)
const get = async (caller: Caller, path: string) => (await send('GET', `/sdapi/v1/${path}`, basic(caller))).json()

type Made = { images: string[]; parameters: object; info: string }

describe('txt2img', () => {
  test('makes images as SillyTavern asks for them', async ({ expect }) => {
    const calls = fakeGpu(works)
    const body = {
      ...{ prompt: 'a lighthouse', negative_prompt: 'fog', width: 512, height: 256, steps: 20, cfg_scale: 7, seed: 7 },
      ...{ sampler_name: 'DPM++ 2M', scheduler: 'Karras', restore_faces: false, enable_hr: false, batch_size: 2 },
      override_settings: { sd_model_checkpoint: 'tiny', CLIP_stop_at_last_layers: 1 },
      ...{ override_settings_restore_afterwards: true, clip_skip: 1, save_images: true, send_images: true },
    }
    const response = await post(await newCaller(), body)
    const { images, parameters, info } = (await response.json()) as Made
    expect(images.map((each) => Uint8Array.fromBase64(each))).toEqual([imageBytes(7), imageBytes(8)])
    expect(parameters).toEqual(body)
    expect(JSON.parse(info)).toMatchObject({
      ...{ prompt: 'a lighthouse', seed: 7, all_seeds: [7, 8], width: 512, height: 256, steps: 20, cfg_scale: 7 },
      infotexts: [
        expect.stringContaining(
          'Negative prompt: fog\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 7, Size: 512x256',
        ),
        expect.stringContaining('Seed: 8'),
      ],
      extra_generation_params: {
        warnings: [
          'sampler_name is "DPM++ 2M", which has no effect here.',
          'scheduler is "Karras", which has no effect here.',
        ],
      },
    })
    expect(calls[0]!.request).toMatchObject({ model: 'tiny', count: 2, steps: 20, guidance_scale: 7, seed: 7 })
  })

  test('makes images as Open WebUI asks for them, with a random seed', async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const body = { prompt: 'a lighthouse', batch_size: 1, width: 512, height: 512, seed: -1, negative_prompt: null }
    const [first, second] = [await post(caller, body), await post(caller, body)]
    expect([first.status, second.status]).toEqual([200, 200])
    expect(calls[0]!.request.seed).not.toBe(calls[1]!.request.seed)
  })

  test('is refused in words, with the names that the client used', async ({ expect }) => {
    const caller = await newCaller()
    const bad = await post(caller, { prompt: 'a lighthouse', cfg_scale: 50, steps: 500 })
    expect([bad.status, await bad.json()]).toEqual([
      400,
      {
        ...{ error: 'The request is not valid', body: '' },
        detail: 'steps is 500; it must be an integer from 1 to 200.',
        errors: 'steps is 500; it must be an integer from 1 to 200. cfg_scale is 50; it must be a number from 0 to 30.',
      },
    ])
    const image = await post(caller, { prompt: 'a lighthouse', init_images: ['aGk='] }, 'img2img')
    expect(JSON.stringify(await image.json())).toContain('init_images cannot be used: the file is of an unknown type')
    const model = { sd_model_checkpoint: 'other.safetensors [0123abcd]' }
    const unknown = await post(caller, { prompt: 'a lighthouse', override_settings: model })
    expect(JSON.stringify(await unknown.json())).toContain('this deployment serves auto, tiny, paired')
    expect((await post({ key: 'nonsense' }, { prompt: 'a lighthouse' })).status).toBe(401)
  })
})

describe('the facts that clients read when they connect', () => {
  test('are the models, one sampler and no other networks', async ({ expect }) => {
    const caller = await newCaller()
    expect(await get(caller, 'sd-models')).toMatchObject([
      { title: 'tiny', model_name: 'tiny' },
      { title: 'paired', model_name: 'paired' },
    ])
    const options = (await get(caller, 'options')) as object
    expect(options).toMatchObject({ sd_model_checkpoint: 'tiny' })
    expect((await post(caller, options, 'options')).status).toBe(200)
    expect(await get(caller, 'samplers')).toEqual([{ name: 'Euler', aliases: ['euler'], options: {} }])
    expect(await get(caller, 'schedulers')).toMatchObject([{ name: 'automatic', label: 'Automatic' }])
    for (const path of ['sd-vae', 'loras', 'latent-upscale-modes']) expect(await get(caller, path)).toEqual([])
    expect(await get(caller, 'upscalers')).toMatchObject([{ name: 'None' }])
  })

  test('say whether a job is in progress', async ({ expect }) => {
    const caller = await newCaller()
    const idle = { progress: 0, state: { job_count: 0 } }
    expect(await get(caller, 'progress?skip_current_image=true')).toMatchObject(idle)
    fakeGpu(untilCanceled(1))
    const job = await send('POST', '/v1/jobs', caller, { prompt: 'a lighthouse' })
    const { id } = (await job.json()) as { id: string }
    expect(await get(caller, 'progress')).toMatchObject({ state: { job_count: 1, job: 'txt2img' } })
    await send('DELETE', `/v1/jobs/${id}`, caller)
    await vi.waitFor(async () => expect(await get(caller, 'progress')).toMatchObject(idle))
  })
})
