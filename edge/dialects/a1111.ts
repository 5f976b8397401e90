// The HTTP API of stable-diffusion-webui (AUTOMATIC1111): /sdapi/v1. github.com/AUTOMATIC1111/stable-diffusion-webui modules/api
import * as z from 'zod'
import type { Problem } from '../http/errors.ts'
import { parseFields } from '../http/validation.ts'
import type { Dialect, DialectRequest, DialectRoute, RenderedJob, Translation } from './definition/dialect.ts'
import { readImageInput, withoutEffect } from './definition/image-input.ts'
import type { ListedJob } from './definition/public-job.ts'

const ROOT = '/sdapi/v1'
const batch = z.int().min(1).max(8).describe('an integer from 1 to 8').optional()

/** What differs from the parameters of other APIs. */
const body = z.object({
  ...{ batch_size: batch, n_iter: batch },
  override_settings: z.record(z.string(), z.unknown()).describe('an object').optional(),
})

const SAME = ['prompt', 'negative_prompt', 'width', 'height', 'steps', 'cfg_scale', 'seed', 'init_images', 'mask']
/** Parameters that change the image there and not here, unless they have one of these values. */
const NO_EFFECT = [
  'sampler_name',
  'sampler_index',
  'scheduler',
  'styles',
  'script_name',
  'enable_hr',
  'tiling',
] as const
const USUAL: readonly unknown[] = [undefined, null, false, '', 'Automatic', 'automatic', 'Euler']

const isUsual = (value: unknown) => USUAL.includes(value) || (Array.isArray(value) && value.length === 0)

/** A checkpoint's title may have its hash in brackets. */
function modelOf({ override_settings = {} }: z.infer<typeof body>): { model?: string } {
  const title = override_settings.sd_model_checkpoint
  const name = typeof title === 'string' ? title.replace(/ \[[^\][]*\]$/, '') : ''
  return name === '' ? {} : { model: name }
}

/** Images as base64. A negative seed is random. */
function parse({ body: given }: DialectRequest): Translation {
  const parsed = parseFields(body, body.shape, given)
  const same = Object.fromEntries(SAME.flatMap((name) => (name in given ? [[name, given[name]]] : [])))
  const { fields, wantedSize } = readImageInput(same)
  const n = (parsed.batch_size ?? 1) * (parsed.n_iter ?? 1)
  const ignored = NO_EFFECT.filter((name) => !isUsual(given[name]))
  return {
    fields: { ...fields, ...modelOf(parsed), n, response_format: 'b64_json' },
    warnings: ignored.map((name) => withoutEffect(name, given[name])),
    wait: 'end',
    ...(wantedSize && { wantedSize }),
  }
}

const SAMPLER = 'Euler'

/** What the web interface writes below an image. */
function infotextOf({ job, parameters }: RenderedJob, seed: number | string): string {
  const { prompt, negative_prompt, steps, guidance_scale, width, height, model } = parameters
  const negative = negative_prompt === '' ? [] : [`Negative prompt: ${negative_prompt}`]
  const sampling = `Steps: ${steps}, Sampler: ${SAMPLER}, CFG scale: ${guidance_scale}, Seed: ${seed}`
  return [prompt, ...negative, `${sampling}, Size: ${width}x${height}, Model: ${model}, Job: ${job.id}`].join('\n')
}

function infoOf(rendered: RenderedJob) {
  const { job, parameters } = rendered
  const { prompt, negative_prompt, width, height, steps, guidance_scale, count, model } = parameters
  const seeds = job.images.map(({ seed }) => seed)
  return {
    ...{ prompt, all_prompts: seeds.map(() => prompt), negative_prompt },
    ...{ all_negative_prompts: seeds.map(() => negative_prompt), seed: seeds[0], all_seeds: seeds },
    ...{ width, height, steps, cfg_scale: guidance_scale, batch_size: count, sampler_name: SAMPLER },
    ...{ sd_model_name: model, infotexts: seeds.map((seed) => infotextOf(rendered, seed)), index_of_first_image: 0 },
    extra_generation_params: { warnings: job.warnings.map(({ message }) => message) },
  }
}

const render = (rendered: RenderedJob, { body: parameters }: DialectRequest) => ({
  json: {
    images: rendered.files.map((file) => ('b64_json' in file ? file.b64_json : '')),
    parameters,
    info: JSON.stringify(infoOf(rendered)),
  },
})

const describeModel = (name: string) => ({
  ...{ title: name, model_name: name, hash: null, sha256: null, filename: name, config: null },
})

/** Progress of the account's jobs. Clients start a generation when no job is in progress. */
function progressOf(jobs: readonly ListedJob[]) {
  const count = jobs.filter(({ state }) => state === 'in_progress').length
  const job = count === 0 ? '' : 'txt2img'
  return {
    ...{ progress: 0, eta_relative: 0, current_image: null, textinfo: null },
    state: {
      ...{ skipped: false, interrupted: false, stopping_generation: false, job, job_count: count, job_no: 0 },
      ...{ job_timestamp: '0', sampling_step: 0, sampling_steps: 0 },
    },
  }
}

type Facts = Parameters<Extract<DialectRoute, { action: 'describe' }>['render']>[0]

/** What clients read when they connect. */
const FACTS: Readonly<Record<string, (facts: Facts) => unknown>> = {
  'GET /sd-models': ({ models }) => models.map(describeModel),
  'GET /options': ({ models }) => ({ sd_model_checkpoint: models[0], samples_format: 'png', sd_vae: 'Automatic' }),
  'GET /samplers': () => [{ name: SAMPLER, aliases: ['euler'], options: {} }],
  'GET /schedulers': () => [{ name: 'automatic', label: 'Automatic', aliases: null }],
  'GET /upscalers': () => [{ name: 'None', model_name: null, model_path: null, model_url: null, scale: 4 }],
  'GET /latent-upscale-modes': () => [],
  'GET /sd-vae': () => [],
  'GET /loras': () => [],
  'GET /embeddings': () => ({ loaded: {}, skipped: {} }),
  'GET /prompt-styles': () => [],
  'GET /scripts': () => ({ txt2img: [], img2img: [] }),
  'GET /cmd-flags': () => ({}),
  // The model is part of each request: `override_settings`.
  'POST /options': () => ({}),
  'POST /interrupt': () => ({}),
  'POST /skip': () => ({}),
  'POST /refresh-checkpoints': () => ({}),
}

const describeRoutes = Object.entries(FACTS).map(([route, describe]): DialectRoute => {
  const [method, path] = route.split(' ') as ['GET' | 'POST', string]
  const accepts = route === 'POST /options' ? { accepts: 'json' as const } : {}
  return {
    ...{ method, path: `${ROOT}${path}`, action: 'describe', ...accepts },
    render: (facts: Facts) => ({ json: describe(facts) }),
  }
})

const error = ({ title, detail, errors = [] }: Problem) => ({
  json: { error: title, detail, body: '', errors: errors.map(({ message }) => message).join(' ') || detail },
})

/** Text to image. The route for images as input refuses them in words. */
export const a1111: Dialect = {
  name: 'a1111',
  routes: [
    { method: 'POST', path: `${ROOT}/txt2img`, action: 'submit', accepts: 'json', parse, render },
    { method: 'POST', path: `${ROOT}/img2img`, action: 'submit', accepts: 'json', parse, render },
    {
      method: 'GET',
      path: `${ROOT}/progress`,
      action: 'list',
      parse: () => ({ limit: 20 }),
      render: (jobs) => ({ json: progressOf(jobs) }),
    },
    ...describeRoutes,
  ],
  keyPlaces: ['Basic', 'Bearer'],
  error,
}
