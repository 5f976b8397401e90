// Sends one attempt: a payload with fresh links, its signatures, and the POST request.

import type { JobEvent } from '../../dialects/definition/public-job.ts'
import { findDialect } from '../../dialects/dialects.ts'
import { log } from '../../platform/log.ts'
import { toUnixSeconds } from '../../platform/units.ts'
import { createResultUrl } from '../../results/results.ts'
import type { StoredImage } from '../../results/stored-image.ts'
import { createAddressRules, findAddressProblem } from '../endpoints/address.ts'
import { createSignedHeaders } from '../endpoints/signature.ts'
import type { TakenAttempt } from './attempts.ts'
import type { WebhookEvent } from './delivery.ts'
import type { Answer } from './schedule.ts'

/** Lifetime of the links in a payload, from the attempt. */
const LINK_SECONDS = 24 * 3600

/** A stored event. `dialect` is the dialect that renders it, if it is not native. */
type StoredEvent = Omit<JobEvent, 'data'> & {
  data: { id: string; images?: Omit<StoredImage, 'receipt'>[] }
  dialect?: string
}

/** Returns the payload with newly signed links, because retries may be days apart and links expire. */
async function payloadOf(env: Env, { id: eventId, body, origin }: WebhookEvent): Promise<string> {
  const { dialect, ...stored } = JSON.parse(body) as StoredEvent
  const event = { id: eventId, created_at: toUnixSeconds(Date.parse(stored.timestamp)), ...stored }
  const { id, images } = event.data
  if (!images) return JSON.stringify(event)
  const linked = images.map(async (image) => {
    const { key: _, ...facts } = image
    return { ...facts, url: await createResultUrl(env, origin, id, image, LINK_SECONDS) }
  })
  const payload = { ...event, data: { ...event.data, images: await Promise.all(linked) } }
  return JSON.stringify(findDialect(dialect ?? null)?.webhook?.(payload, origin) ?? payload)
}

async function requestOf(env: Env, { event, keys }: TakenAttempt): Promise<RequestInit> {
  const body = await payloadOf(env, event)
  const headers = await createSignedHeaders({ id: event.id, timestamp: Math.floor(Date.now() / 1000), body }, keys)
  return {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'user-agent': 'Octet-Webhooks/1.0', ...headers },
    body,
    redirect: 'manual',
  }
}

async function post(url: string, request: RequestInit, timeoutMs: number, stop: AbortSignal): Promise<Answer> {
  try {
    const signal = AbortSignal.any([AbortSignal.timeout(timeoutMs), stop])
    const response = await fetch(url, { ...request, signal })
    // Only the status matters. The body is canceled, because it may be endless; errors while doing so are ignored.
    response.body?.cancel().catch(() => {})
    return { status: response.status, retryAfter: response.headers.get('retry-after') }
  } catch (cause) {
    return { error: cause instanceof DOMException && cause.name === 'TimeoutError' ? 'timeout' : 'unreachable' }
  }
}

/** Sends an attempt, with a timeout and an abort signal. Never throws: an internal failure is an outcome too, so that it consumes an attempt. */
export async function postWebhook(
  env: Env,
  taken: TakenAttempt,
  timeoutMs: number,
  stop: AbortSignal,
): Promise<Answer> {
  const { url, event, endpoint } = taken
  try {
    if (findAddressProblem(url, createAddressRules(env, new URL(event.origin).hostname))) return { error: 'blocked' }
    return await post(url, await requestOf(env, taken), timeoutMs, stop)
  } catch (cause) {
    log('error', 'a webhook could not be composed', { event: event.id, endpoint, cause })
    return { error: 'internal' }
  }
}
