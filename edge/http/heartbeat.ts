// Slow JSON replies: spaces precede the body, so that no proxy closes a silent connection. JSON parsers skip them.
import type { Context } from 'hono'
import type { EdgeEnv } from './context.ts'

/** `startMs`: the time after which the reply starts; an earlier failure has its own status. `beatMs`: the interval between spaces. */
const TIMES = { startMs: 4_000, beatMs: 10_000 }

/** `identity`, because a compressor would hold back the spaces until the end. `no-transform` forbids compression by proxies. */
const HEADERS = {
  'content-type': 'application/json',
  'content-encoding': 'identity',
  'cache-control': 'no-store, no-transform',
  'x-accel-buffering': 'no',
}

const space = new TextEncoder().encode(' ')

/** Resolves to the result of `work`, or to null after `ms` milliseconds. */
async function waitAtMost<T>(work: Promise<T>, ms: number): Promise<T | null> {
  const { promise: late, resolve } = Promise.withResolvers<null>()
  const timer = setTimeout(resolve, ms, null)
  return Promise.race([work, late]).finally(() => clearTimeout(timer))
}

type LongReply = {
  work: Promise<Response>
  /** Headers for a reply that begins before `work` ends. */
  headers: () => Record<string, string>
  /** Called if `work` fails after the start of the reply. Returns the end of the body. */
  onFailure: (thrown: unknown) => Promise<string>
}

/**
 * Replies with the response of `work`, or after four seconds with status 200, a space every ten seconds and its body. A later failure is
 * written to the body, and the stream is aborted: clients accept a complete body with status 200 as a success, whatever it contains.
 */
export async function replyWithHeartbeat(
  c: Context<EdgeEnv>,
  { work, headers, onFailure }: LongReply,
  { startMs, beatMs } = TIMES,
): Promise<Response> {
  const early = await waitAtMost(work, startMs)
  if (early) return early
  const { readable, writable } = new IdentityTransformStream()
  const send = async () => {
    const writer = writable.getWriter()
    const ended = work.then(
      (response) => ({ response }),
      (thrown: unknown) => ({ thrown }),
    )
    let outcome: Awaited<typeof ended> | null = null
    while (!outcome) {
      await writer.write(space)
      outcome = await waitAtMost(ended, beatMs)
    }
    if ('response' in outcome) {
      writer.releaseLock()
      return outcome.response.body?.pipeTo(writable)
    }
    const text = await onFailure(outcome.thrown)
    await writer.write(new TextEncoder().encode(text))
    await writer.abort(outcome.thrown)
  }
  // A caller who disconnects closes the stream, and the job continues without it.
  c.executionCtx.waitUntil(
    send().catch(() =>
      work.then(
        () => {},
        () => {},
      ),
    ),
  )
  return c.body(readable, 200, { ...HEADERS, ...headers() })
}
