// Calls to Durable Objects. Deploys, evictions and migrations reset objects during calls, so failed calls are repeated on a fresh stub with
// backoff. Methods of objects must therefore be idempotent.
import { addJitter } from './backoff.ts'
import { log } from './log.ts'

/** Waits between tries in milliseconds, about six seconds in total. */
const BACKOFF_MS = [50, 100, 200, 400, 800, 1600, 3200]

type Flags = { retryable?: boolean; overloaded?: boolean; durableObjectReset?: boolean }

/** Whether a call failed because its object was reset or disconnected, and not because of its own code or too many calls. */
function isTransient(error: unknown): boolean {
  const { retryable, overloaded, durableObjectReset } = (error ?? {}) as Flags
  return (retryable === true || durableObjectReset === true) && overloaded !== true
}

/** A call that fails after this time restarts the backoff, because the object made progress. */
const PROGRESS_MS = 1_000

/** The object is overloaded, or its resets outlasted the backoff. Callers of the API receive the error `overloaded`. */
export class ObjectUnavailable extends Error {
  override name = 'ObjectUnavailable' as const
  readonly code = 'overloaded'
}

const createUnavailableError = (cause: unknown) => new ObjectUnavailable('a Durable Object is unavailable', { cause })

/** Repeats `call` with backoff while its object is being reset. Throws ObjectUnavailable, or the error of the object's own code. */
async function repeatAcrossResets<R>(call: () => Promise<R>): Promise<R> {
  for (let tries = 0; ; tries++) {
    const began = Date.now()
    try {
      return await call()
    } catch (cause) {
      if ((cause as Flags | null)?.overloaded) throw createUnavailableError(cause)
      if (!isTransient(cause)) throw cause
      if (Date.now() - began > PROGRESS_MS) tries = 0
      const waitMs = BACKOFF_MS[tries]
      if (waitMs === undefined) throw createUnavailableError(cause)
      log('info', 'a Durable Object was reset; the call is repeated', { tries: tries + 1, cause })
      await new Promise((resolve) => setTimeout(resolve, addJitter(waitMs)))
    }
  }
}

type AnyMethod = (...values: unknown[]) => Promise<unknown>

/** A stub of the object of this name that repeats calls across resets of the object. */
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
    // Without `then`, so that `await` does not treat the stub as a promise.
    get: (_, method) => (typeof method === 'string' && method !== 'then' ? call(method) : undefined),
  })
}
