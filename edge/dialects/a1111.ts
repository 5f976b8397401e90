// The HTTP API of stable-diffusion-webui (AUTOMATIC1111): /sdapi/v1. github.com/AUTOMATIC1111/stable-diffusion-webui modules/api
import * as z from 'zod'
import { LIMITS } from '#contract'
import { ApiError, type Problem } from '../http/errors.ts'
import { formatValue, parseFields } from '../http/validation.ts'
import type { Warning } from '../routing/decision.ts'
import { parseAdditionId, readUnits } from './definition/control-input.ts'
import type {
  Dialect,
  DialectRequest,
  DialectRoute,
  Facts,
  OpenJob,
  RenderedJob,
  Translation,
} from './definition/dialect.ts'
import { createIgnoredWarning, readImageInput } from './definition/image-input.ts'
import type { ListedJob } from './definition/public-job.ts'
import { SAMPLER_NAMES, SCHEDULE_NAMES } from './definition/sampling-names.ts'

const ROOT = '/sdapi/v1'
const batch = z.int().min(1).max(8).describe('an integer from 1 to 8').optional()

const blur = z.number().min(0).max(256).describe('a number from 0 to 256').optional()

/** Parameters whose names or values are specific to this API. */
const body = z.object({
  ...{ batch_size: batch, n_iter: batch },
  /** 0 stretches, 1 crops, 2 adds borders. 3, which enlarges the latent, is treated as 0. */
  resize_mode: z.int().min(0).max(3).describe('an integer from 0 to 3').optional(),
  inpainting_mask_invert: z.union([z.boolean(), z.int()]).describe('0 or 1').optional(),
  ...{ mask_blur: blur, mask_blur_x: blur },
  override_settings: z.record(z.string(), z.unknown()).describe('an object').optional(),
})

const SAME = [
  ...['prompt', 'negative_prompt', 'width', 'height', 'steps', 'cfg_scale', 'seed'],
  ...['sampler_name', 'sampler_index', 'scheduler', 'prompt_weights'],
]
const IMAGE = ['init_images', 'mask', 'denoising_strength']
/** img2img's default. */
const STRENGTH = 0.75
/** Parameters that stable-diffusion-webui applies and Octet does not, with the values that have no effect there. */
const NO_EFFECT = ['styles', 'script_name', 'enable_hr', 'tiling'] as const
const USUAL: readonly unknown[] = [undefined, null, false, '']

const isUsual = (value: unknown) => USUAL.includes(value) || (Array.isArray(value) && value.length === 0)

/** The model in settings, without the hash in brackets that may follow a checkpoint's title. */
function modelOf({ sd_model_checkpoint: title }: Readonly<Record<string, unknown>>): string | undefined {
  const name = typeof title === 'string' ? title.replace(/ \[[^\][]*\]$/, '') : ''
  return name === '' ? undefined : name
}

/** LoRA tag in a prompt: name and strengths. extensions-builtin/Lora/extra_networks_lora.py `activate` */
const LORA_TAG = /<lora:([^:<>]{1,200})(?::([^<>]{0,120}))?>/g

/** Maximum number of tags that are read: more than a request can have adapters, so that its error states the limit. */
const MAX_TAGS = 2 * LIMITS.loras.max
/** Maximum number of warnings about scripts. */
const MAX_SCRIPTS = 8

/** Parses a number. Returns other text unchanged, for the error message of the validation. */
const numberOf = (text: string) => (text.trim() === '' || Number.isNaN(Number(text)) ? text : Number(text))

/** Strengths of the text encoders and the denoiser: `0.8`, `0.8:0.5` or `te=0.8:unet=0.5`. The second defaults to the first. */
function strengthsOf(settings = ''): { encoders?: string | undefined; denoiser?: string | undefined } {
  const parts = settings.split(':')
  const readNamed = (name: string) => parts.find((part) => part.startsWith(`${name}=`))?.slice(name.length + 1)
  const [first, second] = parts.filter((part) => part !== '' && !part.includes('='))
  const encoders = readNamed('te') ?? first
  return { encoders, denoiser: readNamed('unet') ?? second ?? encoders }
}

type Tags = { prompt: unknown; loras: { id: string; scale?: unknown }[]; warnings: Warning[] }

/** Extracts the LoRA tags of a prompt: the remaining prompt, and the adapters with the denoiser's strength. */
function readTags(prompt: unknown): Tags {
  const read: Tags = { prompt, loras: [], warnings: [] }
  if (typeof prompt !== 'string') return read
  for (const [, name, settings] of prompt.matchAll(LORA_TAG).take(MAX_TAGS)) {
    const { encoders, denoiser } = strengthsOf(settings)
    read.loras.push({ id: parseAdditionId(name!.trim()), ...(denoiser && { scale: numberOf(denoiser) }) })
    if (encoders === denoiser) continue
    const message = `The adapter ${formatValue(name!.trim())} has a single strength: ${formatValue(denoiser)} applies to the denoiser and the text encoders.`
    read.warnings.push({ code: 'strength_adjusted', message })
  }
  if (read.loras.length === 0) return read
  return { ...read, prompt: prompt.replaceAll(LORA_TAG, '').replaceAll(/ {2,}/g, ' ').trim() }
}

const FITS = ['stretch', 'crop', 'pad', 'stretch'] as const
/** The web interface's default of `mask_blur`. */
const BLUR = 4

/** The native fields of img2img's own parameters. */
const readImageFields = ({ resize_mode = 0, ...parsed }: z.infer<typeof body>, hasMask: boolean) => ({
  image_fit: FITS[resize_mode],
  ...(hasMask && {
    repaint: parsed.inpainting_mask_invert ? 'black' : 'white',
    mask_feather: parsed.mask_blur ?? parsed.mask_blur_x ?? BLUR,
  }),
})

const pick = (given: Record<string, unknown>, names: readonly string[]) =>
  Object.fromEntries(names.flatMap((name) => (name in given ? [[name, given[name]]] : [])))

const parseText = (request: DialectRequest) => parse(request, SAME)

/** Errors: invalid_request without an image. */
function parseImage(request: DialectRequest): Translation {
  const { init_images: images } = request.body
  if (!Array.isArray(images) || images.length === 0)
    throw new ApiError('invalid_request', 'init_images is missing; it must be a list with an image as base64.', {
      param: 'init_images',
    })
  return parse(request, [...SAME, ...IMAGE])
}

/** Images as base64. A negative seed is random. */
function parse({ body: given }: DialectRequest, names: readonly string[]): Translation {
  const parsed = parseFields(body, body.shape, given)
  const { prompt, loras, warnings: adjusted } = readTags(given.prompt)
  const control = readUnits(given)
  const sameFields = { ...pick(given, names), ...(loras.length > 0 && { prompt }) }
  const { fields: read, wantedSize, warnings, names: sent } = readImageInput(sameFields, STRENGTH)
  const fields = {
    ...{ ...read, ...control.fields },
    ...(read.image !== undefined && readImageFields(parsed, read.mask !== undefined)),
  }
  const n = (parsed.batch_size ?? 1) * (parsed.n_iter ?? 1)
  const model = modelOf(parsed.override_settings ?? {})
  const ignored = NO_EFFECT.filter((name) => !isUsual(given[name]))
  const scripts = control.others
    .slice(0, MAX_SCRIPTS)
    .map((name) => createIgnoredWarning(`alwayson_scripts.${name}`, {}))
  return {
    // This API always reads weights in prompts.
    fields: {
      ...{ prompt_weights: true, ...fields, n, response_format: 'b64_json' },
      ...(loras.length > 0 && { loras }),
      ...(model !== undefined && { model }),
    },
    usesChoice: true,
    warnings: [
      ...adjusted.slice(0, LIMITS.loras.max),
      ...warnings,
      ...ignored.map((name) => createIgnoredWarning(name, given[name])),
      ...scripts,
    ],
    wait: 'end',
    names: { ...sent, ...control.names },
    ...(wantedSize && { wantedSize }),
  }
}

const samplerOf = ({ sampler = 'euler' }: RenderedJob['parameters']) => SAMPLER_NAMES[sampler].label

/** The text that the web interface shows below an image. */
function infotextOf({ job, parameters }: RenderedJob, seed: number | string): string {
  const { prompt, negative_prompt, steps, guidance_scale, width, height, model } = parameters
  const negative = negative_prompt === '' ? [] : [`Negative prompt: ${negative_prompt}`]
  const schedule = parameters.noise_schedule
    ? `Schedule type: ${SCHEDULE_NAMES[parameters.noise_schedule].label}, `
    : ''
  const sampler = `Sampler: ${samplerOf(parameters)}, ${schedule}`
  const sampling = `Steps: ${steps}, ${sampler}CFG scale: ${guidance_scale}, Seed: ${seed}`
  return [prompt, ...negative, `${sampling}, Size: ${width}x${height}, Model: ${model}, Job: ${job.id}`].join('\n')
}

function infoOf(rendered: RenderedJob) {
  const { job, parameters } = rendered
  const { prompt, negative_prompt, width, height, steps, guidance_scale, count, model } = parameters
  const seeds = job.images.map(({ seed }) => seed)
  return {
    ...{ prompt, all_prompts: seeds.map(() => prompt), negative_prompt },
    ...{ all_negative_prompts: seeds.map(() => negative_prompt), seed: seeds[0], all_seeds: seeds },
    ...{ width, height, steps, cfg_scale: guidance_scale, batch_size: count },
    sampler_name: samplerOf(parameters),
    ...{ sd_model_name: model, infotexts: seeds.map((seed) => infotextOf(rendered, seed)), index_of_first_image: 0 },
    extra_generation_params: { warnings: job.warnings.map(({ message }) => message) },
  }
}

/** The request as it is returned: without its images, unless `include_init_images` is true. modules/api/api.py `img2imgapi` */
const echo = (body: DialectRequest['body']) =>
  'init_images' in body && body.include_init_images !== true ? { ...body, init_images: null, mask: null } : body

const render = (rendered: RenderedJob, { body }: DialectRequest) => ({
  json: {
    images: rendered.files.map((file) => ('b64_json' in file ? file.b64_json : '')),
    parameters: echo(body),
    info: JSON.stringify(infoOf(rendered)),
  },
})

const describeModel = (name: string) => ({
  ...{ title: name, model_name: name, hash: null, sha256: null, filename: name, config: null },
})

/** Progress of the account's jobs, with the steps of the newest one. Clients start a generation when no job is in progress. */
function progressOf(jobs: readonly ListedJob[], open: OpenJob | null) {
  const count = jobs.filter(({ state }) => state === 'in_progress').length
  const job = count === 0 ? '' : 'txt2img'
  const steps = open?.parameters.steps ?? 0
  const done = open?.progress && 'step' in open.progress ? open.progress : { image: 0, step: 0 }
  const progress = open ? (done.image * steps + done.step) / (steps * open.parameters.count) : 0
  return {
    ...{ progress, eta_relative: 0, current_image: null, textinfo: null },
    state: {
      ...{ skipped: false, interrupted: false, stopping_generation: false, job, job_count: count, job_no: 0 },
      ...{ job_timestamp: '0', sampling_step: done.step, sampling_steps: steps },
    },
  }
}

/** The routes that clients read when they connect. */
const FACTS: Readonly<Record<string, (facts: Facts) => unknown>> = {
  'GET /sd-models': ({ models }) => ['auto', ...models].map(describeModel),
  'GET /options': ({ chosen }) => ({
    ...{ sd_model_checkpoint: chosen ?? 'auto', samples_format: 'png', sd_vae: 'Automatic' },
  }),
  'GET /samplers': () =>
    Object.entries(SAMPLER_NAMES).map(([alias, { label }]) => ({ name: label, aliases: [alias], options: {} })),
  'GET /schedulers': () => [
    { name: 'automatic', label: 'Automatic', aliases: null },
    ...Object.entries(SCHEDULE_NAMES).map(([name, { label }]) => ({ name, label, aliases: null })),
  ],
  'GET /upscalers': () => [{ name: 'None', model_name: null, model_path: null, model_url: null, scale: 4 }],
  'GET /latent-upscale-modes': () => [],
  'GET /sd-vae': () => [],
  'GET /loras': ({ loras }) => loras.map((name) => ({ name, alias: name, path: name, metadata: {} })),
  'GET /embeddings': () => ({ loaded: {}, skipped: {} }),
  'GET /prompt-styles': () => [],
  'GET /scripts': () => ({ txt2img: [], img2img: [] }),
  'GET /cmd-flags': () => ({}),
  'POST /refresh-checkpoints': () => ({}),
  'POST /refresh-loras': () => ({}),
}

const describeRoutes = Object.entries(FACTS).map(([route, describe]): DialectRoute => {
  const [method, path] = route.split(' ') as ['GET' | 'POST', string]
  return {
    ...{ method, path: `${ROOT}${path}`, action: 'describe', showsChoice: route === 'GET /options' },
    render: (facts: Facts) => ({ json: describe(facts) }),
  }
})

const renderError = ({ title, detail, errors = [] }: Problem) => ({
  json: { error: title, detail, body: '', errors: errors.map(({ message }) => message).join(' ') || detail },
})

/** Text to image, and image to image. */
export const a1111: Dialect = {
  name: 'a1111',
  routes: [
    { method: 'POST', path: `${ROOT}/txt2img`, action: 'submit', accepts: 'json', parse: parseText, render },
    { method: 'POST', path: `${ROOT}/img2img`, action: 'submit', accepts: 'json', parse: parseImage, render },
    {
      method: 'GET',
      path: `${ROOT}/progress`,
      ...{ action: 'list', showsOpen: true },
      parse: () => ({ limit: 20 }),
      render: (jobs, _, __, open) => ({ json: progressOf(jobs, open) }),
    },
    {
      method: 'POST',
      path: `${ROOT}/options`,
      ...{ action: 'choose', accepts: 'json' },
      parse: ({ body: options }) => modelOf(options),
      render: () => ({ json: {} }),
    },
    ...['interrupt', 'skip'].map(
      (name): DialectRoute => ({
        ...{ method: 'POST', path: `${ROOT}/${name}`, action: 'interrupt', render: () => ({ json: {} }) },
      }),
    ),
    ...describeRoutes,
  ],
  keyPlaces: ['Basic', 'Bearer'],
  error: renderError,
}
