// The queue that wakes deliveries, and one attempt of a delivery: take it from the outbox, send it, tell the outbox how it went.
import type { Env } from './env.ts'
import type { StoredImage } from './job-record.ts'
import { log } from './log.ts'
import { resultUrl } from './results.ts'
import { addressProblem, addressRules } from './webhook-address.ts'
import type { Next, Taken } from './webhook-attempts.ts'
import type { WebhookEvent } from './webhook-deliveries.ts'
import type { Answer } from './webhook-schedule.ts'
import { signedHeaders } from './webhook-signature.ts'

/**
 * A message of the queue: which delivery to look at. It says nothing about its state. `lease` is the last attempt that its sender knew of:
 * each later one has sent a message of its own, so that a double of this one, which the queue may make, need not go on for days.
 */
export type DeliveryRef = { account: string; event: string; endpoint: string; lease?: number }

/** The longest delay of a message; a delivery that is due later is looked at early and waits again. */
const MAX_DELAY_SECONDS = 12 * 3600
const BATCH = 100
/** How long the links of a payload hold from the attempt that brings them. */
const LINK_SECONDS = 24 * 3600

export async function enqueue(env: Env, refs: readonly DeliveryRef[]): Promise<void> {
  for (let at = 0; at < refs.length; at += BATCH)
    await env.WEBHOOKS.sendBatch(refs.slice(at, at + BATCH).map((body) => ({ body })))
}

type Payload = { data: { id: string; images?: Omit<StoredImage, 'receipt'>[] } }

/** The payload with links signed anew: the last attempt comes days after the first, and its links must open. */
async function payloadOf(env: Env, { body, origin }: WebhookEvent): Promise<string> {
  const payload = JSON.parse(body) as Payload
  const { id, images } = payload.data
  if (!images) return body
  const linked = images.map(async (image) => {
    const { key: _, ...facts } = image
    return { ...facts, url: await resultUrl(env, origin, id, image, LINK_SECONDS) }
  })
  return JSON.stringify({ ...payload, data: { ...payload.data, images: await Promise.all(linked) } })
}

async function send(env: Env, { url, event, keys }: Taken): Promise<Answer> {
  const problem = addressProblem(url, addressRules(env, new URL(event.origin).hostname))
  if (problem) return { error: 'blocked' }
  const body = await payloadOf(env, event)
  const headers = await signedHeaders({ id: event.id, timestamp: Math.floor(Date.now() / 1000), body }, keys)
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'user-agent': 'Octet-Webhooks/1.0', ...headers },
      body,
      redirect: 'manual',
      signal: AbortSignal.timeout(Number(env.WEBHOOK_TIMEOUT_SECONDS) * 1000),
    })
    // Nothing of the body is of use, and it may be without end.
    await response.body?.cancel()
    return { status: response.status, retryAfter: response.headers.get('retry-after') }
  } catch (cause) {
    return { error: cause instanceof DOMException && cause.name === 'TimeoutError' ? 'timeout' : 'unreachable' }
  }
}

/** Makes one attempt if one is due. Throws when the outbox cannot be asked: then the message must come again. */
export async function attemptDelivery(env: Env, { account, event, endpoint, lease }: DeliveryRef): Promise<Next> {
  const taken = await env.WEBHOOK.getByName(account).take(event, endpoint, lease)
  if (taken.kind !== 'send') return taken
  const began = Date.now()
  const answer = await send(env, taken)
  // By a stub of its own: the outbox may have restarted meanwhile, and a stub does not outlive that.
  return env.WEBHOOK.getByName(account).record(event, endpoint, taken.lease, answer, Date.now() - began)
}

async function handle(env: Env, message: Message<DeliveryRef>): Promise<void> {
  const { lease, ...ref } = message.body
  try {
    // A message that comes again may itself have made the attempt, and died before it could send another.
    const next = await attemptDelivery(env, message.attempts > 1 ? ref : message.body)
    // A message of its own for each wait: a message may be retried only so often, and is kept for days only.
    if (next.kind === 'wait') {
      const delaySeconds = Math.min(Math.ceil(next.seconds), MAX_DELAY_SECONDS)
      await env.WEBHOOKS.send({ ...ref, lease: next.lease }, { delaySeconds })
    }
    if (next.kind === 'exhausted') await env.WEBHOOKS_DEAD.send(ref)
    message.ack()
  } catch (cause) {
    log('warn', 'a webhook could not be looked at', { ...ref, cause })
    message.retry()
  }
}

/** Consumer of the queue of deliveries. */
export async function deliverWebhooks(batch: MessageBatch<DeliveryRef>, env: Env): Promise<void> {
  await Promise.all(batch.messages.map((message) => handle(env, message)))
}

/** Consumer of the dead-letter queue: the log tells the operator; the delivery itself stays in the outbox, ready for a replay. */
export async function logDeadWebhooks(batch: MessageBatch<DeliveryRef>): Promise<void> {
  for (const { body } of batch.messages) log('error', 'a webhook was given up', body)
  batch.ackAll()
}
