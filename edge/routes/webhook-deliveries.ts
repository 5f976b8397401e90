import { type Context, Hono } from 'hono'
import * as z from 'zod'
import type { EdgeEnv } from '../env.ts'
import { ApiError } from '../errors.ts'
import type { Scope } from '../keys.ts'
import { parseFields, readJson } from '../validation.ts'
import { DELIVERY_STATES, type DeliveryView } from '../webhook-deliveries.ts'
import { DEFAULT_ENDPOINT } from '../webhook-endpoints.ts'
import type { WebhookDO } from '../webhook-outbox.ts'
import { outboxOf } from './webhooks.ts'

const MAX_REPLAY = 1000
const moment = z.iso.datetime({ offset: true }).describe('a time as "2026-11-22T10:00:00Z"')
const page = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20).describe('a whole number from 1 to 100'),
  before: moment.optional(),
  state: z
    .enum(DELIVERY_STATES)
    .optional()
    .describe(`one of ${DELIVERY_STATES.join(', ')}`),
})
const REPLAYED = ['undelivered', 'all'] as const
const span = z.strictObject({
  since: moment,
  until: moment.optional(),
  only: z
    .enum(REPLAYED)
    .default('undelivered')
    .describe(`one of ${REPLAYED.join(', ')}`),
})

const iso = (milliseconds: number) => new Date(milliseconds).toISOString()
const unstored = { 'cache-control': 'no-store' }

const describe = ({ event, type, url, state, created, due, attempts }: DeliveryView) => ({
  ...{ event, object: 'webhook_delivery', type, state },
  ...(url !== null && { url }),
  created: iso(created),
  next_attempt: state === 'pending' ? iso(due) : null,
  attempts: attempts.map(({ at, ...attempt }) => ({ at: iso(at), ...attempt })),
})

/** The outbox, once it is clear that it has this endpoint. Errors: not_found. */
async function outboxWith(c: Context<EdgeEnv>, id: string, scope: Scope): Promise<DurableObjectStub<WebhookDO>> {
  const outbox = await outboxOf(c, scope)
  if (id === DEFAULT_ENDPOINT || (await outbox.endpoint(id))) return outbox
  throw new ApiError('not_found', `There is no webhook endpoint ${id}.`)
}

/** What was sent to an endpoint and what it answered, and sending it again. `default` stands for the addresses of single requests. */
export const webhookDeliveries = new Hono<EdgeEnv>()
  .get('/:id/deliveries', async (c) => {
    const id = c.req.param('id')
    const { limit, before, state } = parseFields(page, page.shape, c.req.query())
    const outbox = await outboxWith(c, id, 'read')
    const found = await outbox.deliveries(id, {
      limit,
      state,
      before: before === undefined ? before : Date.parse(before),
    })
    return c.json({ object: 'list', data: found.map(describe) }, 200, unstored)
  })
  .post('/:id/deliveries/:event/replay', async (c) => {
    const { id, event } = c.req.param()
    if (!(await (await outboxWith(c, id, 'admin')).replay(id, event)))
      throw new ApiError('not_found', `There is no event ${event} for ${id}; events are kept for 30 days.`)
    return c.json({ object: 'webhook_replay', count: 1, next: null }, 202, unstored)
  })
  .post('/:id/replay', async (c) => {
    const id = c.req.param('id')
    const { since, until, only } = parseFields(span, span.shape, await readJson(c))
    const outbox = await outboxWith(c, id, 'admin')
    const range = { since: Date.parse(since), until: until === undefined ? Date.now() + 1 : Date.parse(until) }
    const { count, next } = await outbox.replayRange(id, { ...range, all: only === 'all', limit: MAX_REPLAY })
    return c.json({ object: 'webhook_replay', count, next: next === null ? null : iso(next) }, 202, unstored)
  })
