// The operations for webhooks.
import { page, single, span } from '../routes/webhooks/deliveries.ts'
import { changes, newEndpoint, rotation } from '../routes/webhooks/webhooks.ts'
import type { Operation, Reply } from './operation.ts'
import * as replies from './replies.ts'

const describeWebhook = (description: string): Reply => ({ description, schema: replies.webhook })
const REPLAYED: Reply = { description: 'Events that are sent again', schema: replies.replayed }
const webhooks = { tag: 'Webhooks' }

export const WEBHOOK_OPERATIONS: Record<string, Operation> = {
  'POST /v1/webhooks': {
    ...webhooks,
    summary: 'Add an endpoint',
    body: newEndpoint,
    examples: { succeeded: { url: 'https://example.com/octet', events: ['job.succeeded'] } },
    replies: { 201: describeWebhook('The endpoint with its key, shown only once') },
    links: { read: ['GET /v1/webhooks/:id', 'id', '$response.body#/id'] },
  },
  'GET /v1/webhooks': {
    ...webhooks,
    summary: 'List the endpoints',
    replies: { 200: { description: 'The endpoints', schema: replies.webhooks } },
  },
  'GET /v1/webhooks/default/secret': {
    ...webhooks,
    summary: 'The signing secret of URLs given in requests',
    replies: { 200: { description: 'The secret', schema: replies.webhookKeys } },
  },
  'GET /v1/webhooks/:id': { ...webhooks, summary: 'An endpoint', replies: { 200: describeWebhook('The endpoint') } },
  'PATCH /v1/webhooks/:id': {
    ...webhooks,
    summary: 'Change or disable an endpoint',
    body: changes,
    replies: { 200: describeWebhook('The changed endpoint') },
  },
  'DELETE /v1/webhooks/:id': {
    ...webhooks,
    summary: 'Remove an endpoint',
    replies: { 204: { description: 'It is removed' } },
  },
  'POST /v1/webhooks/:id/rotate': {
    ...webhooks,
    summary: 'Replace the key of an endpoint, with an overlap',
    body: rotation,
    isBodyOptional: true,
    replies: { 201: { description: 'The new key, shown only once', schema: replies.webhookKeys } },
  },
  'POST /v1/webhooks/:id/test': {
    ...webhooks,
    summary: 'Send a test event',
    replies: { 202: { description: 'The event', schema: replies.sentEvent } },
  },
  'GET /v1/webhooks/:id/deliveries': {
    ...webhooks,
    summary: 'Deliveries with their attempts, newest first',
    query: page,
    replies: { 200: { description: 'The deliveries', schema: replies.deliveries } },
  },
  'POST /v1/webhooks/:id/deliveries/:event/replay': {
    ...webhooks,
    summary: 'Send one event again',
    body: single,
    isBodyOptional: true,
    replies: { 202: REPLAYED },
  },
  'POST /v1/webhooks/:id/replay': {
    ...webhooks,
    summary: 'Send the events of a time range again',
    body: span,
    examples: { day: { since: '2026-11-22T00:00:00Z', until: '2026-11-23T00:00:00Z' } },
    replies: { 202: REPLAYED },
  },
}
