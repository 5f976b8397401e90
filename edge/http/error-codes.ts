// The closed set of error codes.

export type ErrorKind =
  | 'invalid_request_error'
  | 'authentication_error'
  | 'permission_error'
  | 'conflict_error'
  | 'rate_limit_error'
  | 'budget_error'
  | 'server_error'

/** The status, kind and title of each code. */
export const ERRORS = {
  invalid_request: [400, 'invalid_request_error', 'The request is not valid'],
  content_policy_violation: [400, 'invalid_request_error', 'The prompt violates the content policy'],
  invalid_api_key: [401, 'authentication_error', 'An API key is required'],
  invalid_admin_token: [401, 'authentication_error', 'The operator token is required'],
  over_budget: [402, 'budget_error', 'The budget does not cover this request'],
  jobs_not_allowed: [403, 'permission_error', 'Jobs are not allowed'],
  insufficient_scope: [403, 'permission_error', 'The API key may not do this'],
  link_invalid: [403, 'permission_error', 'The signed link is not valid'],
  link_revoked: [403, 'permission_error', 'The signed link was revoked'],
  link_expired: [403, 'permission_error', 'The signed link has expired'],
  not_found: [404, 'invalid_request_error', 'There is nothing at this address'],
  method_not_allowed: [405, 'invalid_request_error', 'This address does not support this method'],
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
  unsupported_media_type: [415, 'invalid_request_error', 'The type of the request body is not accepted'],
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
  gpu_budget_exhausted: [503, 'server_error', "Today's GPU time is used up"],
  gpu_unavailable: [503, 'server_error', 'No GPU accepted the job in time'],
  moderation_unavailable: [503, 'server_error', 'The moderation of the prompt is unavailable'],
  overloaded: [503, 'server_error', 'The service is busy'],
} as const satisfies Record<string, readonly [status: number, kind: ErrorKind, title: string]>

export type ErrorCode = keyof typeof ERRORS
