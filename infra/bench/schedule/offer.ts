// Submission of a job to a GPU function over HTTP.
import type { JobRequest } from '../../../gpu-fn/contract.ts'

/** `accepted`: response with the event stream as its body. `retryAfterMs`: refused with Retry-After. `refusal`: any other error text. */
export type Offer = { accepted: Response } | { retryAfterMs: number } | { refusal: string }

/** Sends `PUT` to the URL of a job. Throws on network errors. The signal also aborts the response body of an accepted job. */
export async function offerJob(url: string, request: JobRequest, signal: AbortSignal | null = null): Promise<Offer> {
  const headers = { 'content-type': 'application/json' }
  const reply = await fetch(url, { method: 'PUT', headers, body: JSON.stringify(request), signal })
  const retryAfter = reply.headers.get('retry-after')
  if (reply.status === 429 && retryAfter !== null) {
    await reply.body?.cancel()
    return { retryAfterMs: 1000 * Number(retryAfter) }
  }
  return reply.ok ? { accepted: reply } : { refusal: await reply.text() }
}
