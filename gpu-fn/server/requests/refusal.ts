// Refusals of the GPU function: closed codes, one status each, RFC 9457 on the wire.
import { STATUS_CODES } from 'node:http'
import type * as z from 'zod'
import { escapeText, jobRequest, type refusal } from '../../contract.ts'

const STATUS = {
  invalid_request: 400,
  token_missing: 401,
  token_invalid: 401,
  token_expired: 401,
  token_replayed: 401,
  token_mismatch: 403,
  not_found: 404,
  job_not_found: 404,
  job_conflict: 409,
  stale_attempt: 409,
  request_too_large: 413,
  unsupported_media_type: 415,
  queue_full: 429,
  deadline_unmet: 429,
  internal: 500,
  loading: 503,
  draining: 503,
  failed: 503,
} as const
export type RefusalCode = keyof typeof STATUS

/** A refused request; `message` is for the caller, `retryAfter` in seconds. */
export class Refusal extends Error {
  override name = 'Refusal' as const
  readonly code: RefusalCode
  readonly retryAfter: number | undefined

  constructor(code: RefusalCode, message: string, options: ErrorOptions & { retryAfter?: number } = {}) {
    super(message, options)
    this.code = code
    this.retryAfter = options.retryAfter
  }
}

/** The reply of a refusal: `application/problem+json` with `code`, and `retry-after` if a retry may succeed. */
export function createProblemReply({
  code,
  message,
  retryAfter,
}: Pick<Refusal, 'code' | 'message' | 'retryAfter'>): Response {
  const status = STATUS[code]
  const body: z.infer<typeof refusal> = {
    type: 'about:blank',
    title: STATUS_CODES[status] ?? 'Error',
    status,
    detail: escapeText(message),
    code,
  }
  const headers = new Headers({ 'content-type': 'application/problem+json' })
  if (retryAfter !== undefined) headers.set('retry-after', String(retryAfter))
  if (status === 401) headers.set('www-authenticate', 'Bearer')
  return new Response(JSON.stringify(body), { status, headers })
}

/** One clause per invalid field: its name, the given value and the allowed ones. */
export function describeIssues(issues: readonly z.core.$ZodIssue[]): string {
  return issues.slice(0, 5).map(describeIssue).join('; ')
}

function describeIssue(issue: z.core.$ZodIssue): string {
  if (issue.code === 'unrecognized_keys')
    return `unknown field ${quote(issue.keys.join(', '))} (allowed: ${Object.keys(jobRequest.shape).join(', ')})`
  const field = issue.path.join('.') || 'body'
  return issue.input === undefined
    ? `${field} is missing: ${issue.message}`
    : `${field} was ${quote(issue.input)}: ${issue.message}`
}

function quote(value: unknown): string {
  const text = stringify(value)
  return text.length > 80 ? `${text.slice(0, 80)}… (${text.length} characters)` : text
}

/** JSON of a parsed value, or a description if it is nested too deeply for the stack. */
function stringify(value: unknown): string {
  try {
    return JSON.stringify(value)
  } catch {
    return 'a value that is nested too deeply'
  }
}
