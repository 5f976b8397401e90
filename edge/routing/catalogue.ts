// The offers of this deployment, best first, from the variable OCTET_CATALOGUE.

import * as z from 'zod'
import { LIMITS, ROUTES, TIERS } from '#contract'

const side = z.int().min(LIMITS.side.min).max(LIMITS.side.max).multipleOf(LIMITS.side.multipleOf)

const offer = z
  .strictObject({
    route: z.enum(ROUTES),
    model: z.string().regex(/^[a-z0-9][a-z0-9-]{0,63}$/),
    tier: z.enum(TIERS),
    /** A name of `endpoints`; `default` is GPU_URL. */
    endpoint: z.string().default('default'),
    /** Fallback endpoints for jobs that the first one does not accept in time. */
    spares: z.array(z.string()).optional(),
    steps: z.int().min(LIMITS.steps.min).max(LIMITS.steps.max),
    guidance_scale: z.number().min(LIMITS.guidanceScale.min).max(LIMITS.guidanceScale.max),
    /** The default size, and the most pixels of an image. */
    width: side,
    height: side,
    max_pixels: z.int().min(1),
    /** The longest side in pixels, a limit of the model's position table. */
    max_side: side.default(LIMITS.side.max),
  })
  .refine((each) => each.route === 'full' || each.guidance_scale === 1, 'the turbo route runs at guidance_scale 1')

export const catalogue = z.strictObject({
  endpoints: z.record(z.string(), z.url({ protocol: /^https?$/ })).default({}),
  offers: z.array(offer).min(1),
})

export type Offer = z.infer<typeof offer>
export type Catalogue = z.infer<typeof catalogue>

/** Reads OCTET_CATALOGUE, as JSON text or as a table of wrangler.toml. Throws if it is malformed or an offer's endpoint has no address. */
export function readCatalogue(env: { OCTET_CATALOGUE: unknown; GPU_URL: string }): Catalogue {
  const given = typeof env.OCTET_CATALOGUE === 'string' ? JSON.parse(env.OCTET_CATALOGUE) : env.OCTET_CATALOGUE
  const parsed = catalogue.safeParse(given)
  if (!parsed.success) throw new Error(`OCTET_CATALOGUE is malformed:\n${z.prettifyError(parsed.error)}`)
  const endpoints = { default: env.GPU_URL, ...parsed.data.endpoints }
  const homeless = parsed.data.offers
    .flatMap(({ endpoint, spares = [] }) => [endpoint, ...spares])
    .find((name) => !(name in endpoints))
  if (homeless !== undefined)
    throw new Error(`OCTET_CATALOGUE: endpoint "${homeless}" is not among ${Object.keys(endpoints).join(', ')}`)
  return { endpoints, offers: parsed.data.offers }
}
