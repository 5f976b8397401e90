// The offers of this deployment, best first: the variables OCTET_CATALOG and GPU_URL.
import * as z from 'zod'
import { LIMITS, modelName, ROUTES, SAMPLERS, TIERS } from '#contract'
import { controlnet, describeUnoffered, isControlnetUsable, isLoraUsable, lora } from './additions.ts'
import { createTableSchema } from './values.ts'

const side = z.int().min(LIMITS.side.min).max(LIMITS.side.max).multipleOf(LIMITS.side.multipleOf)

const offer = z
  .strictObject({
    route: z.enum(ROUTES),
    model: modelName,
    tier: z.enum(TIERS),
    /** A name of `endpoints`; `default` is GPU_URL. */
    endpoint: z.string().default('default'),
    /** Fallback endpoints for jobs that the first one does not accept in time. */
    fallbacks: z.array(z.string()).optional(),
    steps: z.int().min(LIMITS.steps.min).max(LIMITS.steps.max),
    guidance_scale: z.number().min(LIMITS.guidanceScale.min).max(LIMITS.guidanceScale.max),
    /** Default sampler; must equal that of the package. Every job states its sampler, because the price depends on the number of evaluations. */
    sampler: z.enum(SAMPLERS).default('euler'),
    /** The default size, and the maximum number of pixels of an image. */
    width: side,
    height: side,
    max_pixels: z.int().min(1),
    /** The maximum side in pixels, set by the model's position table. */
    max_side: side.default(LIMITS.side.max),
  })
  .refine((each) => each.route === 'full' || each.guidance_scale === 1, 'the turbo route runs at guidance_scale 1')

/** A model name of another provider, or the beginning of one followed by `*`. */
const alias = z
  .string()
  .regex(/^([A-Za-z0-9][A-Za-z0-9._:/-]{0,62})?\*?$/, 'an alias is a name, or the beginning of one followed by *')

const address = z.url({ protocol: /^https?$/ })

export const catalogTable = z.strictObject({
  endpoints: z.record(z.string(), address).default({}),
  offers: z.array(offer).min(1),
  /** Models that serve names of other providers: a model of `offers`, or `auto` for any. */
  aliases: z.record(alias, z.string()).optional(),
  /** Adapters (LoRAs) installed on the endpoints of their models. */
  loras: z.array(lora).optional(),
  /** ControlNets installed on the endpoints of their models. */
  controlnets: z.array(controlnet).optional(),
})

export type Offer = z.infer<typeof offer>
export type Catalog = z.infer<typeof catalogTable>

/** The catalog with GPU_URL as the endpoint `default`. Every endpoint of an offer has an address. */
export const catalog = z
  .object({
    OCTET_CATALOG: createTableSchema(catalogTable),
    GPU_URL: address.describe('an http:// or https:// address'),
  })
  .transform(({ OCTET_CATALOG: { offers, endpoints: others, ...rest }, GPU_URL }, context): Catalog => {
    const { aliases, loras, controlnets } = rest
    const models = ['auto', ...offers.map(({ model }) => model)]
    for (const [name, model] of Object.entries(aliases ?? {})) {
      if (models.includes(model)) continue
      const message = `the alias must be one of ${[...new Set(models)].join(', ')}`
      context.addIssue({ code: 'custom', path: ['OCTET_CATALOG', 'aliases', name], message, input: model })
    }
    const kinds = [
      { noun: 'lora', additions: loras, fits: isLoraUsable },
      { noun: 'controlnet', additions: controlnets, fits: isControlnetUsable },
    ]
    for (const { noun, additions = [], fits } of kinds)
      for (const [i, { id, models: served }] of additions.entries()) {
        const path = ['OCTET_CATALOG', `${noun}s`, i]
        const problem = describeUnoffered(fits, served, offers)
        if (problem) context.addIssue({ code: 'custom', path, message: `${noun} ${id} ${problem}`, input: served })
        if (additions.findIndex((other) => other.id === id) < i)
          context.addIssue({ code: 'custom', path, message: `${noun} ${id} is listed twice`, input: id })
      }
    const endpoints = { default: GPU_URL, ...others }
    const names = offers.flatMap(({ endpoint, fallbacks = [] }) => [endpoint, ...fallbacks])
    const unknown = names.find((name) => !(name in endpoints))
    if (unknown === undefined) return { endpoints, offers, ...rest }
    const message = `endpoint "${unknown}" is not defined; defined are ${Object.keys(endpoints).join(', ')}`
    context.addIssue({ code: 'custom', path: ['OCTET_CATALOG', 'offers'], message, input: offers })
    return z.NEVER
  })
