// Every error of the worker: a closed set of codes, each with one status, in a body format for both RFC 9457 clients and the OpenAI SDKs.
import type { Context, ErrorHandler, NotFoundHandler } from 'hono'
import { log } from '../platform/log.ts'
import type { EdgeEnv } from './context.ts'

type Kind =
  | 'invalid_request_error'
  | 'authentication_error'
  | 'permission_error'
  | 'conflict_error'
  | 'rate_limit_error'
  | 'budget_error'
  | 'server_error'

const ERRORS = {
  invalid_request: [400, 'invalid_request_error', 'The request is not valid'],
  invalid_api_key: [401, 'authentication_error', 'An API key is required'],
  invalid_admin_token: [401, 'authentication_error', 'The operator token is required'],
  over_budget: [402, 'budget_error', 'The budget does not cover this request'],
  jobs_not_allowed: [403, 'permission_error', 'Jobs are not allowed'],
  insufficient_scope: [403, 'permission_error', 'The API key may not do this'],
  link_invalid: [403, 'permission_error', 'The signed link is not valid'],
  link_revoked: [403, 'permission_error', 'The signed link was revoked'],
  link_expired: [403, 'permission_error', 'The signed link has expired'],
  not_found: [404, 'invalid_request_error', 'There is nothing at this address'],
  method_not_allowed: [405, 'invalid_request_error', 'This address does not take this method'],
  job_canceled: [409, 'conflict_error', 'The job was canceled'],
  idempotency_in_flight: [409, 'conflict_error', 'The first request with this Idempotency-Key is still running'],
  key_ended: [409, 'conflict_error', 'The API key is no longer active'],
  too_many_keys: [409, 'conflict_error', 'The account has too many API keys'],
  credit_mismatch: [409, 'conflict_error', 'This credit exists with a different amount'],
  webhook_exists: [409, 'conflict_error', 'A webhook endpoint with this URL already exists'],
  webhook_delivered: [409, 'conflict_error', 'The event was delivered to this endpoint'],
  account_deleted: [410, 'invalid_request_error', 'The account was deleted'],
  body_too_large: [413, 'invalid_request_error', 'The request body is too large'],
  uri_too_long: [414, 'invalid_request_error', 'The address is too long'],
  unsupported_media_type: [415, 'invalid_request_error', 'The request body must be JSON'],
  range_not_satisfiable: [416, 'invalid_request_error', 'The range is outside the file'],
  idempotency_mismatch: [422, 'invalid_request_error', 'This Idempotency-Key was used with another request'],
  max_cost_exceeded: [422, 'invalid_request_error', 'The request costs more than its max_cost'],
  max_latency_exceeded: [422, 'invalid_request_error', 'The request takes longer than its max_latency_ms'],
  not_offered: [422, 'invalid_request_error', 'This deployment does not serve that'],
  header_too_large: [431, 'invalid_request_error', 'A header is too long'],
  rate_limited: [429, 'rate_limit_error', 'Too many requests'],
  concurrency_limited: [429, 'rate_limit_error', 'Too many concurrent jobs'],
  generation_failed: [500, 'server_error', 'The image could not be made'],
  internal: [500, 'server_error', 'Something went wrong on our side'],
  account_full: [503, 'server_error', 'The account has reached its storage limit'],
  gpu_unavailable: [503, 'server_error', 'No GPU took the job in time'],
  overloaded: [503, 'server_error', 'The service is busy'],
} as const satisfies Record<string, readonly [status: number, kind: Kind, title: string]>

export type ErrorCode = keyof typeof ERRORS
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
const MOST_PROBLEMS = 10
export const shorten = (text: string, most: number) => (text.length <= most ? text : `${text.slice(0, most)}…`)

const shortenParam = (param: string | null | undefined) => (param == null ? null : shorten(param, 60))

/** The problem document of an error: RFC 9457 members, and `error` as the OpenAI SDKs expect it. */
function problem(c: Context<EdgeEnv>, { code, message: whole, details }: ApiError) {
  const [status, kind, title] = ERRORS[code]
  const message = shorten(whole, MAX_CHARACTERS)
  const errors = details.errors?.slice(0, MOST_PROBLEMS).map((each) => ({
    param: shortenParam(each.param),
    message: shorten(each.message, MAX_CHARACTERS),
  }))
  const body = {
    type: `urn:octet:error:${code}`,
    title,
    status,
    detail: message,
    request_id: c.get('requestId'),
    ...(errors && { errors }),
    error: { message, type: kind, param: shortenParam(details.param), code },
  }
  return c.body(JSON.stringify(body), status, {
    'content-type': 'application/problem+json',
    ...details.headers,
  })
}

const internalError = (cause: unknown) =>
  new ApiError('internal', 'Something went wrong on our side. Please try again; the request id helps us find it.', {
    cause,
  })

/** The message of the error thrown by the object of a deleted account. The error's class is lost in calls between objects. */
export const ACCOUNT_DELETED = 'the account was deleted'
const accountDeleted = () =>
  new ApiError('account_deleted', 'This account was deleted, and its name cannot be used again. Choose another name.')

/** Responds to an error thrown by a handler: an ApiError as is; any other error with a generic message, and a log entry. */
export const onError: ErrorHandler<EdgeEnv> = (thrown, c) => {
  const error =
    thrown instanceof ApiError ? thrown : thrown.message === ACCOUNT_DELETED ? accountDeleted() : internalError(thrown)
  if (ERRORS[error.code][0] >= 500) {
    log('error', error.message, { request_id: c.get('requestId'), path: c.req.path, cause: error.cause ?? null })
  }
  return problem(c, error)
}

export const onNotFound: NotFoundHandler<EdgeEnv> = (c) =>
  problem(c, new ApiError('not_found', `There is nothing at ${c.req.method} ${c.req.path}.`))

export const onMethodNotAllowed = (c: Context<EdgeEnv>, allowed: readonly string[]) =>
  problem(
    c,
    new ApiError('method_not_allowed', `${c.req.path} does not take ${c.req.method}; it takes ${allowed.join(', ')}.`, {
      headers: { allow: allowed.join(', ') },
    }),
  )
