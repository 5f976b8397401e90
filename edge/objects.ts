// Calls to Durable Objects. A deploy, an eviction or a migration resets objects under their callers, so every call is repeated on a fresh
// stub with backoff. Methods of objects must therefore be safe to repeat.
import { ApiError } from './errors.ts'
import { log } from './log.ts'

/** Waits between tries in milliseconds; some six seconds in all. */
const BACKOFF_MS = [50, 100, 200, 400, 800, 1600, 3200]

type Flags = { retryable?: boolean; overloaded?: boolean; durableObjectReset?: boolean }

/** Whether a call failed because its object was reset or disconnected, and not because of its own code or too many calls. */
function isTransient(error: unknown): boolean {
  const { retryable, overloaded, durableObjectReset } = (error ?? {}) as Flags
  return (retryable === true || durableObjectReset === true) && overloaded !== true
}

/** A call that lasted longer than this made progress, so its failure starts the backoff anew. */
const PROGRESS_MS = 1_000

const unavailable = (cause: unknown) =>
  new ApiError('overloaded', 'The service has too many requests at the moment; try again in a few seconds.', {
    cause,
    headers: { 'retry-after': '5' },
  })

/** Runs `call` again with backoff while its object is being reset. Errors: overloaded, and whatever the object's own code throws. */
async function repeatAcrossResets<R>(call: () => Promise<R>): Promise<R> {
  for (let tries = 0; ; tries++) {
    const began = Date.now()
    try {
      return await call()
    } catch (cause) {
      if ((cause as Flags | null)?.overloaded) throw unavailable(cause)
      if (!isTransient(cause)) throw cause
      if (Date.now() - began > PROGRESS_MS) tries = 0
      const waitMs = BACKOFF_MS[tries]
      if (waitMs === undefined) throw unavailable(cause)
      log('info', 'a Durable Object was reset; the call is repeated', { tries: tries + 1, cause })
      await new Promise((resolve) => setTimeout(resolve, waitMs * (0.75 + Math.random() / 2)))
    }
  }
}

type AnyMethod = (...values: unknown[]) => Promise<unknown>

/** The object of this name, as a stub whose every method call survives resets of the object. */
export function objectOf<T extends Rpc.DurableObjectBranded>(
  namespace: DurableObjectNamespace<T>,
  name: string,
): DurableObjectStub<T> {
  const call =
    (method: string) =>
    (...values: unknown[]) =>
      repeatAcrossResets(async () => {
        const stub = namespace.getByName(name) as unknown as Record<string, AnyMethod>
        return stub[method]!(...values)
      })
  return new Proxy({} as DurableObjectStub<T>, {
    // A stub must not look like a promise.
    get: (_, method) => (typeof method === 'string' && method !== 'then' ? call(method) : undefined),
  })
}
