// Submission of a job to a GPU function over HTTP.
import type { JobRequest } from '../../../gpu-fn/contract.ts'

/** `accepted`: the reply, whose body is the job's stream. `retryAfterMs`: of a refusal with Retry-After. `refusal`: the text of another one. */
export type Offer = { accepted: Response } | { retryAfterMs: number } | { refusal: string }

/** Sends `PUT` to the address of a job. Throws the errors of fetch; the signal also ends the body of an accepted job. */
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
