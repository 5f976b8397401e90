// The errors of the worker, in a body format for both RFC 9457 clients and the OpenAI SDKs.
import type { Context, ErrorHandler, NotFoundHandler } from 'hono'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { escapeText } from '#contract'
import { ObjectUnavailable } from '../platform/durable-objects.ts'
import { log } from '../platform/log.ts'
import type { EdgeEnv } from './context.ts'
import { ERRORS, type ErrorCode, type ErrorKind } from './error-codes.ts'
import { findHint } from './path-hints.ts'

type Details = {
  param?: string
  errors?: { param: string | null; message: string }[]
  headers?: Record<string, string>
  cause?: unknown
}

/** An intended error: `message` is sent to the caller, `cause` only to the log. */
export class ApiError extends Error {
  override name = 'ApiError' as const
  readonly code: ErrorCode
  readonly details: Details
  constructor(code: ErrorCode, message: string, details: Details = {}) {
    super(message, { cause: details.cause })
    this.code = code
    this.details = details
  }
}

/** Limits the response size, because messages quote text from the request (names, values, addresses). */
const MAX_CHARACTERS = 1000
const MAX_PROBLEMS = 10
export const shorten = (text: string, max: number) => (text.length <= max ? text : `${text.slice(0, max)}…`)

const shortenParam = (param: string | null | undefined) => (param == null ? null : shorten(escapeText(param), 60))

/** A problem document: RFC 9457 members, and `error` as the OpenAI SDKs expect it. */
export type Problem = {
  type: string
  title: string
  status: number
  detail: string
  request_id: string
  errors?: { param: string | null; message: string }[]
  error: { message: string; type: ErrorKind; param: string | null; code: ErrorCode }
}

/** An error in the format of a dialect. The status is the problem's by default. */
export type ErrorReply = { status?: ContentfulStatusCode; headers?: Record<string, string>; json: object }

declare module 'hono' {
  interface ContextVariableMap {
    /** Renders errors in the format of the route's dialect. */
    renderError?: (problem: Problem) => ErrorReply
    /** The native status of the request's error. Its dialect may reply with another status. */
    problemStatus?: number
  }
}

function createProblem(c: Context<EdgeEnv>, { code, message: whole, details }: ApiError): Problem {
  const [status, kind, title] = ERRORS[code]
  const message = shorten(escapeText(whole), MAX_CHARACTERS)
  const errors = details.errors?.slice(0, MAX_PROBLEMS).map((each) => ({
    param: shortenParam(each.param),
    message: shorten(escapeText(each.message), MAX_CHARACTERS),
  }))
  return {
    type: `urn:octet:error:${code}`,
    title,
    status,
    detail: message,
    request_id: c.get('requestId'),
    ...(errors && { errors }),
    error: { message, type: kind, param: shortenParam(details.param), code },
  }
}

/** Responds with the problem document of an error, in the format of the request's dialect. */
function respond(c: Context<EdgeEnv>, error: ApiError) {
  const body = createProblem(c, error)
  c.set('problemStatus', body.status)
  const own = c.get('renderError')?.(body)
  const type = own ? 'application/json' : 'application/problem+json'
  return c.body(JSON.stringify(own?.json ?? body), own?.status ?? (body.status as ContentfulStatusCode), {
    'content-type': type,
    ...error.details.headers,
    ...own?.headers,
  })
}

const createInternalError = (cause: unknown) =>
  new ApiError('internal', 'Something went wrong on our side. Please try again; the request id helps us find it.', {
    cause,
  })

/** The message of the error thrown by the object of a deleted account. The error's class is lost in calls between objects. */
export const ACCOUNT_DELETED = 'the account was deleted'
const createAccountDeletedError = () =>
  new ApiError('account_deleted', 'This account was deleted, and its name cannot be used again. Choose another name.')

const createOverloadedError = ({ cause }: ObjectUnavailable) =>
  new ApiError('overloaded', 'The service has too many requests at the moment; try again in a few seconds.', {
    cause,
    headers: { 'retry-after': '5' },
  })

/** The error for the caller. An error that is not intended has a generic message. */
function toApiError(thrown: Error): ApiError {
  if (thrown instanceof ApiError) return thrown
  if (thrown instanceof ObjectUnavailable) return createOverloadedError(thrown)
  return thrown.message === ACCOUNT_DELETED ? createAccountDeletedError() : createInternalError(thrown)
}

/** The error for the caller. Errors of the worker are logged. */
function reportError(c: Context<EdgeEnv>, thrown: Error): ApiError {
  const error = toApiError(thrown)
  if (ERRORS[error.code][0] >= 500) {
    log('error', error.message, { request_id: c.get('requestId'), path: c.req.path, cause: error.cause ?? null })
  }
  return error
}

/** Responds to an error thrown by a handler, and logs errors of the worker. */
export const onError: ErrorHandler<EdgeEnv> = (thrown, c) => respond(c, reportError(c, thrown))

/** The problem document of an error after the start of the response, which is logged like others. */
export const describeThrown = (c: Context<EdgeEnv>, thrown: unknown): Problem =>
  createProblem(c, reportError(c, thrown instanceof Error ? thrown : new Error(String(thrown))))

export const onNotFound: NotFoundHandler<EdgeEnv> = (c) => {
  const hint = findHint(c.req.path, new URL(c.req.url).origin)
  return respond(c, new ApiError('not_found', `There is nothing at ${c.req.method} ${c.req.path}.${hint}`))
}

export const onMethodNotAllowed = (c: Context<EdgeEnv>, allowed: readonly string[]) =>
  respond(
    c,
    new ApiError(
      'method_not_allowed',
      `${c.req.path} does not allow ${c.req.method}; allowed: ${allowed.join(', ')}.`,
      {
        headers: { allow: allowed.join(', ') },
      },
    ),
  )
