// The API of stable-diffusion-webui, as Open WebUI, SillyTavern and Krita call it.
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { issueKey } from '../../../edge/auth/keys.ts'
import { type Caller, newCaller, readJob, send } from '../support/client.ts'
import { peppers } from '../support/config.ts'
import { createImageBytes, fakeGpu, untilCanceled, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const createBasic = ({ key }: Pick<Caller, 'key'>) => ({ headers: { authorization: `Basic ${btoa(`octet:${key}`)}` } })
const post = (caller: Pick<Caller, 'key'>, body: object, path = 'txt2img') =>
  send('POST', `/sdapi/v1/${path}`, createBasic(caller), body)
const get = async (caller: Caller, path: string) => (await send('GET', `/sdapi/v1/${path}`, createBasic(caller))).json()

type ImageReply = { images: string[]; parameters: object; info: string }

describe('txt2img', () => {
  test("generates images for SillyTavern's requests", async ({ expect }) => {
    const calls = fakeGpu(works)
    const body = {
      ...{ prompt: 'a lighthouse', negative_prompt: 'fog', width: 512, height: 256, steps: 20, cfg_scale: 7, seed: 7 },
      ...{ sampler_name: 'DPM++ 2M', scheduler: 'Karras', restore_faces: false, enable_hr: false, batch_size: 2 },
      override_settings: { sd_model_checkpoint: 'tiny', CLIP_stop_at_last_layers: 1 },
      ...{ override_settings_restore_afterwards: true, clip_skip: 1, save_images: true, send_images: true },
    }
    const response = await post(await newCaller(), body)
    const { images, parameters, info } = (await response.json()) as ImageReply
    expect(images.map((each) => Uint8Array.fromBase64(each))).toEqual([createImageBytes(7), createImageBytes(8)])
    expect(parameters).toEqual(body)
    expect(JSON.parse(info)).toMatchObject({
      ...{ prompt: 'a lighthouse', seed: 7, all_seeds: [7, 8], width: 512, height: 256, steps: 20, cfg_scale: 7 },
      infotexts: [
        expect.stringContaining(
          'Negative prompt: fog\nSteps: 20, Sampler: DPM++ 2M, CFG scale: 7, Seed: 7, Size: 512x256',
        ),
        expect.stringContaining('Seed: 8'),
      ],
      extra_generation_params: {
        warnings: ['scheduler is "Karras", which has no effect here.'],
      },
    })
    expect(calls[0]!.request).toMatchObject({ model: 'tiny', count: 2, steps: 20, guidance_scale: 7, seed: 7 })
    expect(calls[0]!.request).toMatchObject({ sampler: 'dpmpp_2m', prompt_weights: true })
  })

  test('accepts the samplers and schedules of its lists, by their names and labels', async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const samplers = (await get(caller, 'samplers')) as { name: string; aliases: string[] }[]
    const schedulers = (await get(caller, 'schedulers')) as { name: string; label: string }[]
    expect(samplers.map(({ name }) => name)).toEqual(['Euler', 'DPM++ 2M', 'Heun', 'LCM'])
    expect(schedulers.map(({ label }) => label)).toEqual(['Automatic', 'Normal', 'Simple', 'SGM Uniform', 'Beta'])
    const size = { width: 64, height: 64 }
    const made = await post(caller, { prompt: 'a cat', sampler_name: 'Heun', scheduler: 'sgm_uniform', ...size })
    expect(calls[0]!.request).toMatchObject({ sampler: 'heun', noise_schedule: 'sgm_uniform' })
    const { info } = (await made.json()) as ImageReply
    expect(JSON.parse(info).infotexts[0]).toContain('Sampler: Heun, Schedule type: SGM Uniform, CFG scale')
    const unknown = await post(caller, { prompt: 'a cat', sampler_name: 'Oiler', ...size })
    expect([unknown.status, JSON.stringify(await unknown.json())]).toEqual([400, expect.stringContaining('DPM++ 2M')])
  })

  test("generates images for Open WebUI's requests, with a random seed", async ({ expect }) => {
    const calls = fakeGpu(works)
    const caller = await newCaller()
    const body = {
      prompt: 'a lighthouse',
      batch_size: 1,
      width: 512,
      height: 512,
      seed: -1,
      negative_prompt: null,
      prompt_weights: false,
    }
    const [first, second] = [await post(caller, body), await post(caller, body)]
    expect([first.status, second.status]).toEqual([200, 200])
    expect(calls[0]!.request.seed).not.toBe(calls[1]!.request.seed)
    expect(calls[0]!.request).not.toHaveProperty('prompt_weights')
  })

  test('is refused with an explanation that has the client’s names of the fields', async ({ expect }) => {
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
  test('have the models and no other networks', async ({ expect }) => {
    const caller = await newCaller()
    expect(await get(caller, 'sd-models')).toMatchObject([
      { title: 'auto', model_name: 'auto' },
      { title: 'tiny', model_name: 'tiny' },
      { title: 'paired', model_name: 'paired' },
    ])
    const options = (await get(caller, 'options')) as object
    expect(options).toMatchObject({ sd_model_checkpoint: 'auto' })
    expect((await post(caller, options, 'options')).status).toBe(200)
    for (const path of ['sd-vae', 'loras', 'latent-upscale-modes']) expect(await get(caller, path)).toEqual([])
    expect(await get(caller, 'upscalers')).toMatchObject([{ name: 'None' }])
  })

  test('have the progress of a job, and an interruption ends it', async ({ expect }) => {
    const caller = await newCaller()
    const idle = { progress: 0, state: { job_count: 0 } }
    expect(await get(caller, 'progress?skip_current_image=true')).toMatchObject(idle)
    fakeGpu(untilCanceled(1))
    const [own, native] = [
      post(caller, { prompt: 'a lighthouse', steps: 4, n_iter: 2 }),
      await send('POST', '/v1/jobs', await newCaller(), { prompt: 'a lighthouse' }),
    ]
    const running = { progress: 0.125, state: { job_count: 1, job: 'txt2img', sampling_step: 1, sampling_steps: 4 } }
    await vi.waitFor(async () => expect(await get(caller, 'progress')).toMatchObject(running))
    expect((await post(caller, {}, 'interrupt')).status).toBe(200)
    const ended = await own
    expect([ended.status, JSON.stringify(await ended.json())]).toEqual([409, expect.stringContaining('was canceled')])
    await vi.waitFor(async () => expect(await get(caller, 'progress')).toMatchObject(idle))
    expect(await env.JOB.getByName((await readJob(native)).id).view()).toMatchObject({ cancelRequested: false })
  })
})

describe('the model', () => {
  const readChosenModel = async (caller: Caller) =>
    ((await get(caller, 'options')) as { sd_model_checkpoint: string }).sd_model_checkpoint

  test('of requests without a model is the one chosen in the options of the key', async ({ expect }) => {
    const calls = fakeGpu(works)
    const [caller, other] = [await newCaller(), await newCaller()]
    const body = { prompt: 'a lighthouse', steps: 4 }
    await post(caller, body)
    // Open WebUI sends all options back.
    const options = { ...((await get(caller, 'options')) as object), sd_model_checkpoint: 'paired' }
    expect((await post(caller, options, 'options')).status).toBe(200)
    await post(caller, body)
    await post(caller, { ...body, override_settings: { sd_model_checkpoint: 'tiny' } })
    await post(other, body)
    expect(calls.map(({ request }) => request.model)).toEqual(['tiny', 'paired', 'tiny', 'tiny'])
    expect([await readChosenModel(caller), await readChosenModel(other)]).toEqual(['paired', 'auto'])
    await post(caller, { sd_model_checkpoint: 'auto' }, 'options')
    expect(await readChosenModel(caller)).toBe('auto')
  })

  test('is unchanged by options without a model, and is inherited by a successor of the key', async ({ expect }) => {
    const caller = await newCaller()
    await post(caller, { sd_model_checkpoint: 'paired [0123abcd]' }, 'options')
    await post(caller, { samples_format: 'jpg' }, 'options')
    expect(await readChosenModel(caller)).toBe('paired')
    const account = env.ACCOUNT.getByName(caller.account)
    const next = await issueKey(peppers, caller.account)
    await account.rotateKey(caller.keyId, next.credential, Date.now() + 1000)
    expect(await account.chosenModel(next.credential.keyId)).toBe('paired')
  })

  test('must be one of the deployment', async ({ expect }) => {
    const response = await post(await newCaller(), { sd_model_checkpoint: 'other' }, 'options')
    expect([response.status, JSON.stringify(await response.json())]).toEqual([
      404,
      expect.stringContaining('this deployment serves auto, tiny, paired'),
    ])
  })
})
