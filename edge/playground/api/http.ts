// Requests to the API of this worker.
import { credential } from './session.ts'

/** An error of the API or of the connection. `message` is a sentence for the reader. */
export class Problem extends Error {
  override name = 'Problem' as const
  readonly status: number
  readonly code: string
  readonly param: string | null
  readonly requestId: string | null
  readonly retryAfterSeconds: number | null
  constructor(
    message: string,
    { status = 0, code = 'offline', param = null, requestId = null, retryAfterSeconds = null }: Partial<Problem> = {},
  ) {
    super(message)
    this.status = status
    this.code = code
    this.param = param
    this.requestId = requestId
    this.retryAfterSeconds = retryAfterSeconds
  }
}

export const isProblem = (error: unknown): error is Problem => error instanceof Problem
const isAbort = (error: unknown) => error instanceof DOMException && error.name === 'AbortError'

type Body = { detail?: string; request_id?: string; error?: { code?: string; param?: string | null } }

async function problemOf(response: Response): Promise<Problem> {
  const body = ((await response.json().catch(() => null)) ?? {}) as Body
  const retryAfter = response.headers.get('retry-after')
  return new Problem(body.detail ?? `The server responded with status ${response.status}.`, {
    status: response.status,
    code: body.error?.code ?? 'unknown',
    param: body.error?.param ?? null,
    requestId: body.request_id ?? null,
    retryAfterSeconds: retryAfter === null ? null : Number(retryAfter),
  })
}

/** `bearer` is sent in place of the tab's credential. */
export type Options = { signal?: AbortSignal; headers?: Record<string, string>; bearer?: string }

/** Sends a request with the current credential and returns the JSON of the response, null for 204. Errors: Problem, AbortError. */
export async function call<T>(method: string, path: string, body?: unknown, options: Options = {}): Promise<T> {
  const bearer = options.bearer ?? credential.value?.value
  const init: RequestInit = {
    method,
    headers: {
      ...(bearer && { authorization: `Bearer ${bearer}` }),
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...options.headers,
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
    ...(options.signal && { signal: options.signal }),
  }
  const response = await fetch(path, init).catch((cause: unknown) => {
    if (isAbort(cause)) throw cause
    throw new Problem('The connection was lost. Check the network, then try again.')
  })
  if (!response.ok) throw await problemOf(response)
  return response.status === 204 ? (null as T) : ((await response.json()) as T)
}

/** The path and query of a link of the API: behind a proxy, its origin may differ from the page's. */
export function localPathOf(link: string): string {
  const { pathname, search } = new URL(link)
  return pathname + search
}
