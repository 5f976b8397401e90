import { type Context, Hono } from 'hono'
import * as z from 'zod'
import { requireScope } from '../../auth/auth.ts'
import type { Scope } from '../../auth/scopes.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { ApiError } from '../../http/errors.ts'
import { parseFields, readJson, readOptionalJson } from '../../http/validation.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { toUnixSeconds } from '../../platform/units.ts'
import type { ReplayLimit } from '../../webhooks/delivery/replays.ts'
import { checkAddress, hideQuery } from '../../webhooks/endpoints/address.ts'
import {
  type AddressConflict,
  DEFAULT_ENDPOINT,
  type DisableReason,
  MAX_ENDPOINTS,
  MAX_ENDPOINTS_OF_HOST,
  newEndpointId,
} from '../../webhooks/endpoints/endpoints.ts'
import { EVENT_TYPES } from '../../webhooks/endpoints/event-types.ts'
import type { KeyView, VerificationKey } from '../../webhooks/endpoints/keys.ts'
import { newSigningKey, newSigningKeys, SCHEMES } from '../../webhooks/endpoints/signature.ts'
import { testEvent } from '../../webhooks/publication.ts'
import type { EndpointView } from '../../webhooks/registration.ts'
import type { WebhookDO } from '../../webhooks/webhook-object.ts'

const url = z.string().describe('an https:// address')
const events = z
  .array(z.enum(EVENT_TYPES))
  .min(1)
  .describe(`a list of ${EVENT_TYPES.join(', ')}`)
const description = z.string().max(200).describe('a text of at most 200 characters')
const signature = z.enum(SCHEMES).describe(`one of ${SCHEMES.join(', ')}`)
export const newEndpoint = z.strictObject({
  url,
  events: events.default([...EVENT_TYPES]),
  description: description.default(''),
  signature: signature.default('hmac'),
})
export const changes = z.strictObject({
  url: url.optional(),
  events: events.optional(),
  description: description.optional(),
  disabled: z.boolean().optional().describe('true or false'),
})
const MAX_OVERLAP_SECONDS = 7 * 24 * 3600
export const rotation = z.strictObject({
  signature: signature.optional(),
  overlap_seconds: z
    .int()
    .min(0)
    .max(MAX_OVERLAP_SECONDS)
    .default(24 * 3600)
    .describe(`a whole number from 0 to ${MAX_OVERLAP_SECONDS}`),
})

const describeKey = ({ scheme, publicKey, created, expires }: KeyView) => ({
  signature: scheme,
  ...(publicKey !== null && { public_key: publicKey }),
  created: toUnixSeconds(created),
  expires: expires === null ? null : toUnixSeconds(expires),
})

const describe = ({ id, url, events, description, disabled, created, keys }: EndpointView) => ({
  ...{ id, object: 'webhook_endpoint', url, events, description },
  disabled: disabled !== null,
  disabled_reason: disabled,
  created: toUnixSeconds(created),
  keys: keys.map(describeKey),
})

/** Returns the verification key, for the one response that reveals it. */
const showOnce = ({ scheme, shown }: VerificationKey) =>
  scheme === 'ed25519' ? { public_key: shown } : { secret: shown }

const createNotFoundError = (id: string) => new ApiError('not_found', `There is no webhook endpoint ${id}.`)

/** Returns the error for a URL that cannot be registered. */
function refuse(conflict: AddressConflict, url: string): ApiError {
  const param = { param: 'url' }
  if (conflict.kind === 'exists') {
    const message = `The webhook endpoint ${conflict.id} already has this URL; update that endpoint or use a different URL.`
    return new ApiError('webhook_exists', message, param)
  }
  const bound =
    conflict.of === 'account'
      ? `An account has at most ${MAX_ENDPOINTS} webhook endpoints`
      : `An account has at most ${MAX_ENDPOINTS_OF_HOST} webhook endpoints on one host, and ${new URL(url).hostname} has as many`
  return new ApiError('invalid_request', `${bound}; delete one first.`, param)
}

/** Returns the error for a rate-limited replay or test event. */
export function createRateLimitError({ retryAfterSeconds }: ReplayLimit): ApiError {
  const seconds = String(retryAfterSeconds)
  const message = `This account has requested too many replays and test events; try again in ${seconds} s.`
  return new ApiError('rate_limited', message, { headers: { 'retry-after': seconds } })
}

/** Returns the webhook object of the caller's account. Errors: invalid_api_key, insufficient_scope. */
export async function outboxOf(c: Context<EdgeEnv>, scope: Scope): Promise<DurableObjectStub<WebhookDO>> {
  const { account } = await requireScope(c, scope)
  return objectOf(c.env.WEBHOOK, account)
}

const isForbidden = (error: unknown) => error instanceof ApiError && error.code === 'insufficient_scope'

/** Returns the account's webhook object and a URL formatter: only `admin` keys see full URLs, other keys see them without the query. */
export async function openReadableOutbox(c: Context<EdgeEnv>) {
  const outbox = await outboxOf(c, 'read')
  try {
    await requireScope(c, 'admin')
    return { outbox, show: (url: string) => url }
  } catch (error) {
    if (!isForbidden(error)) throw error
    return { outbox, show: hideQuery }
  }
}

async function change(c: Context<EdgeEnv>, id: string): Promise<EndpointView> {
  const outbox = await outboxOf(c, 'admin')
  const { url, events, description, disabled } = parseFields(changes, changes.shape, await readJson(c))
  if (url !== undefined) checkAddress(c.env, c.req.url, url, 'url')
  const by: DisableReason | null = disabled ? 'by_owner' : null
  const changed = await outbox.changeEndpoint(id, {
    ...(url !== undefined && { url }),
    ...(events && { events }),
    ...(description !== undefined && { description }),
    ...(disabled !== undefined && { disabled: by }),
  })
  if (changed && changed.kind !== 'registered') throw refuse(changed, url!)
  const endpoint = changed && (await outbox.endpoint(id))
  if (!endpoint) throw createNotFoundError(id)
  return endpoint
}

/** The webhook endpoints of an account: POST, GET, PATCH, DELETE /v1/webhooks, key rotation, and test events. */
export const webhooks = new Hono<EdgeEnv>()
  .post('/', async (c) => {
    const outbox = await outboxOf(c, 'admin')
    const { signature, ...fields } = parseFields(newEndpoint, newEndpoint.shape, await readJson(c))
    checkAddress(c.env, c.req.url, fields.url, 'url')
    const added = await outbox.addEndpoint(
      newEndpointId(),
      { ...fields, disabled: null },
      await newSigningKey(signature),
    )
    if (added.kind !== 'registered') throw refuse(added, fields.url)
    const [endpoint, key] = [await outbox.endpoint(added.id), await outbox.verificationKey(added.id)]
    return c.json({ ...describe(endpoint!), ...showOnce(key!) }, 201)
  })
  .get('/', async (c) => {
    const { outbox, show } = await openReadableOutbox(c)
    const data = (await outbox.endpoints()).map((endpoint) => describe({ ...endpoint, url: show(endpoint.url) }))
    return c.json({ object: 'list', data })
  })
  // The signing secret for per-request webhook URLs, at the same path as in Replicate's API.
  .get('/default/secret', async (c) => {
    const { shown, keys } = (await (await outboxOf(c, 'admin')).verificationKey(DEFAULT_ENDPOINT))!
    return c.json({ key: shown, keys: keys.map(describeKey) })
  })
  .get('/:id', async (c) => {
    const { outbox, show } = await openReadableOutbox(c)
    const endpoint = await outbox.endpoint(c.req.param('id'))
    if (!endpoint) throw createNotFoundError(c.req.param('id'))
    return c.json(describe({ ...endpoint, url: show(endpoint.url) }))
  })
  .patch('/:id', async (c) => c.json(describe(await change(c, c.req.param('id')))))
  .delete('/:id', async (c) => {
    if (!(await (await outboxOf(c, 'admin')).removeEndpoint(c.req.param('id'))))
      throw createNotFoundError(c.req.param('id'))
    return c.body(null, 204)
  })
  .post('/:id/rotate', async (c) => {
    const [outbox, id] = [await outboxOf(c, 'admin'), c.req.param('id')]
    const { signature, overlap_seconds } = parseFields(rotation, rotation.shape, await readOptionalJson(c))
    const key = await outbox.rotate(id, signature, overlap_seconds * 1000, await newSigningKeys())
    if (!key) throw createNotFoundError(id)
    return c.json({ ...showOnce(key), keys: key.keys.map(describeKey) }, 201)
  })
  .post('/:id/test', async (c) => {
    const [outbox, id] = [await outboxOf(c, 'admin'), c.req.param('id')]
    const event = testEvent(new URL(c.req.url).origin)
    const sent = await outbox.publishTo(id, event)
    if (sent.kind === 'unknown') throw createNotFoundError(id)
    if (sent.kind === 'limited') throw createRateLimitError(sent)
    return c.json({ object: 'webhook_event', id: event.id, type: event.type }, 202)
  })
