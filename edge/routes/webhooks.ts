import { type Context, Hono } from 'hono'
import * as z from 'zod'
import { owner } from '../auth.ts'
import type { EdgeEnv } from '../env.ts'
import { ApiError } from '../errors.ts'
import type { Scope } from '../keys.ts'
import { parseFields, readJson } from '../validation.ts'
import { checkAddress } from '../webhook-address.ts'
import { DEFAULT_ENDPOINT, type Disabled, EVENT_TYPES, type KeyView, MAX_ENDPOINTS } from '../webhook-endpoints.ts'
import type { EndpointView, WebhookDO } from '../webhook-outbox.ts'
import { SCHEMES } from '../webhook-signature.ts'
import { testEvent } from '../webhooks.ts'

const url = z.string().describe('an https:// address')
const events = z
  .array(z.enum(EVENT_TYPES))
  .min(1)
  .describe(`a list of ${EVENT_TYPES.join(', ')}`)
const description = z.string().max(200).describe('a text of at most 200 characters')
const signature = z.enum(SCHEMES).describe(`one of ${SCHEMES.join(', ')}`)
const newEndpoint = z.strictObject({
  url,
  events: events.default([...EVENT_TYPES]),
  description: description.default(''),
  signature: signature.default('hmac'),
})
const changes = z.strictObject({
  url: url.optional(),
  events: events.optional(),
  description: description.optional(),
  disabled: z.boolean().optional().describe('true or false'),
})
const MAX_OVERLAP_SECONDS = 7 * 24 * 3600
const rotation = z.strictObject({
  signature: signature.optional(),
  overlap_seconds: z
    .int()
    .min(0)
    .max(MAX_OVERLAP_SECONDS)
    .default(24 * 3600)
    .describe(`a whole number from 0 to ${MAX_OVERLAP_SECONDS}`),
})

const unixSeconds = (milliseconds: number) => Math.floor(milliseconds / 1000)
const unstored = { 'cache-control': 'no-store' }

/** A key as it is listed: a shared secret is not told again. */
const describeKey = ({ scheme, shown, created, expires }: KeyView) => ({
  signature: scheme,
  ...(scheme === 'ed25519' && { public_key: shown }),
  created: unixSeconds(created),
  expires: expires === null ? null : unixSeconds(expires),
})

const describe = ({ id, url, events, description, disabled, created, keys }: EndpointView) => ({
  ...{ id, object: 'webhook_endpoint', url, events, description },
  disabled: disabled !== null,
  disabled_reason: disabled,
  created: unixSeconds(created),
  keys: keys.map(describeKey),
})

/** What a receiver verifies with, in the reply that makes it. */
const shownOnce = ([newest]: KeyView[]) =>
  newest?.scheme === 'ed25519' ? { public_key: newest.shown } : { secret: newest!.shown }

const absent = (id: string) => new ApiError('not_found', `There is no webhook endpoint ${id}.`)

/** The outbox of the caller's account. Errors: invalid_api_key, insufficient_scope. */
export async function outboxOf(c: Context<EdgeEnv>, scope: Scope): Promise<DurableObjectStub<WebhookDO>> {
  const { account } = await owner(c, scope)
  return c.env.WEBHOOK.getByName(account)
}

async function change(c: Context<EdgeEnv>, id: string): Promise<EndpointView> {
  const { url, events, description, disabled } = parseFields(changes, changes.shape, await readJson(c))
  const outbox = await outboxOf(c, 'admin')
  if (url !== undefined) checkAddress(c.env, c.req.url, url, 'url')
  const by: Disabled | null = disabled ? 'by_owner' : null
  const changed = await outbox.changeEndpoint(id, {
    ...(url !== undefined && { url }),
    ...(events && { events }),
    ...(description !== undefined && { description }),
    ...(disabled !== undefined && { disabled: by }),
  })
  if (!changed) throw absent(id)
  return changed
}

/** The receivers of an account's events: POST, GET, PATCH, DELETE /v1/webhooks, their keys, and a test event. */
export const webhooks = new Hono<EdgeEnv>()
  .post('/', async (c) => {
    const { signature, ...fields } = parseFields(newEndpoint, newEndpoint.shape, await readJson(c))
    const outbox = await outboxOf(c, 'admin')
    checkAddress(c.env, c.req.url, fields.url, 'url')
    const added = await outbox.addEndpoint({ ...fields, disabled: null }, signature)
    if (!added)
      throw new ApiError(
        'invalid_request',
        `An account has at most ${MAX_ENDPOINTS} webhook endpoints; delete one first.`,
      )
    return c.json({ ...describe(added), ...shownOnce(added.keys) }, 201, unstored)
  })
  .get('/', async (c) => {
    const endpoints = await (await outboxOf(c, 'read')).endpoints()
    return c.json({ object: 'list', data: endpoints.map(describe) }, 200, unstored)
  })
  // Replicate's address for the secret that signs what goes to the addresses of single requests.
  .get('/default/secret', async (c) => {
    const keys = await (await outboxOf(c, 'admin')).keys(DEFAULT_ENDPOINT)
    return c.json({ key: keys[0]!.shown, keys: keys.map(describeKey) }, 200, unstored)
  })
  .get('/:id', async (c) => {
    const endpoint = await (await outboxOf(c, 'read')).endpoint(c.req.param('id'))
    if (!endpoint) throw absent(c.req.param('id'))
    return c.json(describe(endpoint), 200, unstored)
  })
  .patch('/:id', async (c) => c.json(describe(await change(c, c.req.param('id'))), 200, unstored))
  .delete('/:id', async (c) => {
    if (!(await (await outboxOf(c, 'admin')).removeEndpoint(c.req.param('id')))) throw absent(c.req.param('id'))
    return c.body(null, 204)
  })
  .post('/:id/rotate', async (c) => {
    const { signature, overlap_seconds } = parseFields(rotation, rotation.shape, await readJson(c))
    const [outbox, id] = [await outboxOf(c, 'admin'), c.req.param('id')]
    if (id !== DEFAULT_ENDPOINT && !(await outbox.endpoint(id))) throw absent(id)
    const [current] = await outbox.keys(id)
    const keys = await outbox.rotate(id, signature ?? current!.scheme, overlap_seconds * 1000)
    return c.json({ ...shownOnce(keys), keys: keys.map(describeKey) }, 201, unstored)
  })
  .post('/:id/test', async (c) => {
    const [outbox, id] = [await outboxOf(c, 'admin'), c.req.param('id')]
    if (!(await outbox.endpoint(id))) throw absent(id)
    const event = testEvent(new URL(c.req.url).origin)
    await outbox.publishTo(id, event)
    return c.json({ object: 'webhook_event', id: event.id, type: event.type }, 202, unstored)
  })
