import { Hono } from 'hono'
import * as z from 'zod'
import type { EdgeEnv } from '../../http/context.ts'
import { ApiError } from '../../http/errors.ts'
import { parseFields, readJson, readOptionalJson } from '../../http/validation.ts'
import { DELIVERY_STATES, type DeliveryView } from '../../webhooks/delivery/delivery.ts'
import { DEFAULT_ENDPOINT } from '../../webhooks/endpoints/endpoints.ts'
import type { WebhookDO } from '../../webhooks/webhook-object.ts'
import { createRateLimitError, openReadableOutbox, outboxOf } from './webhooks.ts'

const moment = z.iso.datetime({ offset: true }).describe('a time like "2026-11-22T10:00:00Z"')
export const page = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20).describe('a whole number from 1 to 100'),
  before: moment.optional(),
  state: z
    .enum(DELIVERY_STATES)
    .optional()
    .describe(`one of ${DELIVERY_STATES.join(', ')}`),
})
const REPLAY_FILTERS = ['undelivered', 'all'] as const
const only = z
  .enum(REPLAY_FILTERS)
  .default('undelivered')
  .describe(`one of ${REPLAY_FILTERS.join(', ')}`)
export const single = z.strictObject({ only })
export const span = z.strictObject({ since: moment, until: moment.optional(), only })

const formatTime = (milliseconds: number) => new Date(milliseconds).toISOString()

const describe = (
  { event, type, url, state, created, due, attempts }: DeliveryView,
  show: (url: string) => string,
) => ({
  ...{ event, object: 'webhook_delivery', type, state },
  ...(url !== null && { url: show(url) }),
  created: formatTime(created),
  next_attempt: state === 'pending' ? formatTime(due) : null,
  attempts: attempts.map(({ at, ...attempt }) => ({ at: formatTime(at), ...attempt })),
})

/** Checks that the endpoint exists. Errors: not_found. */
async function checkEndpoint(outbox: DurableObjectStub<WebhookDO>, id: string): Promise<void> {
  if (id !== DEFAULT_ENDPOINT && !(await outbox.endpoint(id)))
    throw new ApiError('not_found', `There is no webhook endpoint ${id}.`)
}

/** The deliveries of an endpoint with their attempts, and replays. `default` is the endpoint for per-request webhook URLs. */
export const webhookDeliveries = new Hono<EdgeEnv>()
  .get('/:id/deliveries', async (c) => {
    const id = c.req.param('id')
    const { limit, before, state } = parseFields(page, page.shape, c.req.query())
    const { outbox, show } = await openReadableOutbox(c)
    await checkEndpoint(outbox, id)
    const found = await outbox.deliveries(id, {
      limit,
      state,
      before: before === undefined ? before : Date.parse(before),
    })
    return c.json({ object: 'list', data: found.map((delivery) => describe(delivery, show)) })
  })
  .post('/:id/deliveries/:event/replay', async (c) => {
    const { id, event } = c.req.param()
    const outbox = await outboxOf(c, 'admin')
    const { only } = parseFields(single, single.shape, await readOptionalJson(c))
    await checkEndpoint(outbox, id)
    const replayed = await outbox.replay(id, event, only === 'all')
    if (replayed.kind === 'unknown')
      throw new ApiError('not_found', `There is no event ${event} for ${id}; events are deleted after 30 days.`)
    if (replayed.kind === 'delivered') {
      const message = `The event ${event} was already delivered to ${id}; send {"only": "all"} to send it again.`
      throw new ApiError('webhook_delivered', message, { param: 'only' })
    }
    if (replayed.kind === 'limited') throw createRateLimitError(replayed)
    return c.json({ object: 'webhook_replay', count: 1, next: null }, 202)
  })
  .post('/:id/replay', async (c) => {
    const id = c.req.param('id')
    const outbox = await outboxOf(c, 'admin')
    const { since, until, only } = parseFields(span, span.shape, await readJson(c))
    await checkEndpoint(outbox, id)
    const range = { since: Date.parse(since), until: until === undefined ? Number.MAX_SAFE_INTEGER : Date.parse(until) }
    const replayed = await outbox.replayRange(id, { ...range, all: only === 'all' })
    if (replayed.kind === 'limited') throw createRateLimitError(replayed)
    const { count, next } = replayed
    return c.json({ object: 'webhook_replay', count, next: next === null ? null : formatTime(next) }, 202)
  })
