// Schemas of the replies, for the document of the API. The worker builds its replies from types; test/edge/openapi/document.test.ts
// compares both.
import * as z from 'zod'
import { CONTENT_TYPES, ROUTES, TIERS, timings } from '#contract'
import { SCOPES } from '../auth/scopes.ts'
import { ERRORS, type ErrorCode } from '../http/error-codes.ts'
import { EVENT_TYPES } from '../webhooks/endpoints/event-types.ts'

const CODES = Object.keys(ERRORS) as ErrorCode[]
const microdollars = z.int().describe('micro-dollars')
const moment = z.int().describe('Unix seconds')
/** A seed is text if it exceeds the exact integers of JSON numbers. */
const seedNumber = z.union([z.int().min(0), z.string()])
const nullableMoment = moment.nullable()
const listOf = (item: z.ZodType) => z.object({ object: z.literal('list'), data: z.array(item) })

const failure = z.object({ code: z.enum(CODES), message: z.string() })
const problemItem = z.object({ param: z.string().nullable(), message: z.string() })
/** RFC 9457, with the member `error` of OpenAI's clients. */
export const problem = z.object({
  type: z.string().describe('urn:octet:error:<code>'),
  title: z.string(),
  status: z.int(),
  detail: z.string().describe('a sentence: what is wrong, the given value, and what is allowed'),
  request_id: z.string(),
  errors: z.array(problemItem).max(10).optional(),
  error: z.object({
    message: z.string(),
    type: z.string(),
    param: z.string().nullable().describe('the field'),
    code: z.enum(CODES),
  }),
})

const gpu = z.object({ state: z.enum(['warm', 'starting', 'cold']), ready_in_seconds: z.int().min(0) })

const decision = {
  route: z.enum(ROUTES),
  tier: z.enum(TIERS),
  model: z.string(),
  steps: z.int(),
  guidance_scale: z.number(),
  reason: z.string().describe('why the worker chose this route'),
}

export const image = z.object({
  image: z.int().min(0).describe('index in the job'),
  seed: seedNumber,
  width: z.int(),
  height: z.int(),
  content_type: z.enum(CONTENT_TYPES),
  bytes: z.int(),
  sha256: z.string(),
  expires_at: moment,
  package: z.string().describe("SHA-256 of the package's manifest"),
  device: z.string(),
  deleted: z.literal(true).optional(),
  receipt: z.string().optional().describe('a compact JWS'),
  url: z.string().nullable().describe('a signed link; null once the image has expired'),
})

const STATES = ['queued', 'starting', 'running', 'succeeded', 'failed', 'canceled'] as const
const warning = z.object({ code: z.string(), message: z.string() })
const jobFields = {
  id: z.string(),
  object: z.literal('job'),
  name: z.string().nullable(),
  created: moment,
  finished: nullableMoment,
  ...decision,
  size: z.string(),
  images: z.array(image),
  price_microdollars: microdollars,
}
const endFields = {
  attempt: z.int(),
  cancel_requested: z.boolean(),
  warnings: z.array(warning),
  timings: timings.nullable(),
  error: failure.nullable(),
}
export const job = z.object({
  ...jobFields,
  ...endFields,
  state: z.enum(STATES),
  progress: z
    .union([z.object({ position: z.int() }), z.object({ image: z.int(), step: z.int(), steps: z.int() })])
    .nullable(),
  gpu: gpu.nullable(),
  events_url: z.string().describe('a signed link to the events, for EventSource'),
  reused: z.boolean().optional(),
})
const listedJob = z.object({
  ...jobFields,
  ...z.object(endFields).partial().shape,
  state: z.enum([...STATES, 'in_progress']),
})
export const jobs = listOf(listedJob).extend({ has_more: z.boolean(), next_after: z.string().nullable() })

export const images = z.object({
  created: moment,
  data: z.array(
    z.object({
      url: z.string().nullable().optional(),
      b64_json: z.string().optional(),
      seed: seedNumber,
      content_type: z.enum(CONTENT_TYPES),
      sha256: z.string(),
    }),
  ),
  output_format: z.string(),
  size: z.string(),
  octet: z.object({
    job: z.string(),
    ...decision,
    attempts: z.int(),
    timings: timings.nullable(),
    warnings: z.array(warning),
    price_microdollars: microdollars,
    reused: z.boolean(),
  }),
})

export const quote = z.object({
  object: z.literal('quote'),
  price_microdollars: microdollars,
  ...decision,
  size: z.string(),
  gpu: gpu.nullable(),
  cold_start: z.object({ probability: z.number(), observations: z.int() }).nullable(),
  expected_seconds: z.object({ p50: z.number(), p95: z.number() }).nullable(),
  observations: z.int().describe('finished jobs that the forecast is based on'),
})

const offer = z.object({
  ...{ route: z.enum(ROUTES), tier: z.enum(TIERS), steps: z.int(), guidance_scale: z.number() },
  ...{ width: z.int(), height: z.int(), max_pixels: z.int().optional(), max_side: z.int().optional() },
})
const tiers = z.array(z.enum(TIERS)).describe('compatible tiers of the model')
export const model = z.object({
  ...{ id: z.string(), object: z.literal('model'), created: z.int(), owned_by: z.string() },
  octet: z.array(offer),
  octet_loras: z.array(
    z.object({
      ...{ id: z.string(), models: z.array(z.string()), tiers, scale: z.number() },
      trigger_words: z.array(z.string()).describe('words of a prompt to which the adapter responds'),
    }),
  ),
  octet_controlnets: z.array(z.object({ id: z.string(), models: z.array(z.string()), tiers, scale: z.number() })),
})
export const models = listOf(model)
export const prewarmed = listOf(
  z.object({
    ...{ route: z.enum(ROUTES), model: z.string(), tier: z.enum(TIERS) },
    ...gpu.partial().shape,
  }),
)
export const receipts = listOf(z.object({ image: z.int(), sha256: z.string(), receipt: z.string().nullable() }))
export const verification = z.object({
  ...{ object: z.literal('verification'), sha256: z.string(), bytes: z.int(), content_type: z.string() },
  states_generated: z.literal(true).nullable().describe('whether its IPTC field states that a model generated it'),
  iptc: z
    .object({ digital_source_type: z.string().nullable(), ai_system_used: z.string().nullable() })
    .nullable()
    .describe('from its XMP, which is not signed'),
  c2pa: z.object({ bytes: z.int() }).nullable().describe('the size of its content credentials, which are not checked'),
  receipt: z
    .object({
      ...{ valid: z.boolean(), reason: z.string().optional(), job: z.string().optional(), image: z.int().optional() },
      ...{ issued: z.int().optional(), model: z.string().optional(), tier: z.enum(TIERS).optional() },
    })
    .nullable(),
})
export const jwks = z.object({ keys: z.array(z.looseObject({ kty: z.string(), kid: z.string() })) })
export const health = z.object({ status: z.literal('ok') })

export const token = z.object({
  object: z.literal('token'),
  token: z.string().nullable().describe('ost_…; null if the operator gives visitors no access'),
  id: z.string().optional(),
  key_id: z.string().optional(),
  scope: z.literal('generate').optional(),
  budget_microdollars: microdollars.optional(),
  expires_in: z.int().optional(),
  expires: moment.optional(),
})

const limit = z.int().nullable()
export const limits = z.object({
  requests_per_minute: limit,
  concurrent_jobs: limit,
  daily_microdollars: limit,
  monthly_microdollars: limit,
  total_microdollars: limit,
})

const money = {
  prepaid: z.boolean(),
  balance_microdollars: microdollars,
  credited_microdollars: microdollars,
  captured_microdollars: microdollars,
  reserved_microdollars: microdollars,
  open_jobs: z.int(),
}
const scopes = z.array(z.enum(SCOPES))
export const usage = listOf(
  z.object({
    ...{ day: z.string(), key_id: z.string(), tier: z.string(), jobs: z.int(), price_microdollars: microdollars },
  }),
).extend({
  ...{ account: z.string(), from: z.string(), to: z.string(), total_microdollars: microdollars },
  ...money,
  ...{ limits, retention_days: z.int(), key: z.object({ id: z.string(), scopes }) },
})

const keyFields = {
  id: z.string(),
  label: z.string(),
  scopes,
  limits,
  created: moment,
  expires: nullableMoment,
  revoked: nullableMoment,
  lineage: z.string(),
  created_by: z.string().nullable(),
}
const used = z.object({ spent_microdollars: microdollars, reserved_microdollars: microdollars, open_jobs: z.int() })
export const key = z.object({
  ...keyFields,
  account: z.string(),
  key: z.string().optional().describe('the key itself, only in the reply that creates it'),
  replaces: z.string().optional(),
  used: used.optional(),
})
export const keys = listOf(z.object({ ...keyFields, creator_revoked: z.boolean() }))

export const account = z.object({
  account: z.string(),
  ...z.object(money).partial().shape,
  limits,
  stripe_customer: z.string().nullable(),
  retention_days: z.int(),
  prompt_metadata: z.boolean(),
  deletion: z.looseObject({ state: z.string() }).nullable().optional(),
})
export const deletion = z.looseObject({ state: z.enum(['deleting', 'deleted']), jobs_deleted: z.int() })
export const credited = z.object({ id: z.string(), amount_microdollars: microdollars, note: z.string(), ...money })

const verificationKey = z.object({
  signature: z.string(),
  public_key: z.string().optional(),
  created: moment,
  expires: nullableMoment,
})
const shownOnce = { secret: z.string().optional(), public_key: z.string().optional() }
const webhookFields = {
  id: z.string(),
  object: z.literal('webhook_endpoint'),
  url: z.string(),
  events: z.array(z.string()),
  description: z.string(),
  disabled: z.boolean(),
  disabled_reason: z.string().nullable(),
  created: moment,
  keys: z.array(verificationKey),
}
export const webhook = z.object({ ...webhookFields, ...shownOnce })
export const webhooks = listOf(z.object(webhookFields))
export const webhookKeys = z.object({ ...shownOnce, key: z.string().optional(), keys: z.array(verificationKey) })
export const sentEvent = z.object({ object: z.literal('webhook_event'), id: z.string(), type: z.string() })
export const replayed = z.object({ object: z.literal('webhook_replay'), count: z.int(), next: z.string().nullable() })
export const deliveries = listOf(
  z.object({
    event: z.string(),
    object: z.literal('webhook_delivery'),
    type: z.string(),
    state: z.string(),
    url: z.string().optional(),
    created: z.string(),
    next_attempt: z.string().nullable(),
    attempts: z.array(
      z.object({
        ...{ at: z.string(), status: z.int().nullable(), error: z.string().nullable(), milliseconds: z.number() },
      }),
    ),
  }),
)
export const webhookEvent = z.object({
  id: z.string(),
  type: z.enum(EVENT_TYPES),
  created_at: moment,
  timestamp: z.string(),
  data: job.partial(),
})
export const operatorStatus = z.looseObject({ object: z.literal('status'), since: moment })
export const operatorJob = z.looseObject({ id: z.string(), account: z.string() })
