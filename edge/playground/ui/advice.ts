import type { ErrorCode } from '../../http/error-codes.ts'

const RUN_AGAIN = 'Run it again in a minute.'
const NOT_CHARGED = 'Nothing was charged.'
const RELOAD = 'Reload the page: it may be older than the service.'
const NEW_LINK = 'Open the image from the history again, which makes a new link.'

/** What the reader can do about an error, in words. `offline`: the connection was lost. */
export const ADVICE = {
  invalid_request: 'Change the value named above, then run again.',
  content_policy_violation: `Change the prompt: this service does not generate such content. ${NOT_CHARGED}`,
  invalid_api_key: 'Paste another key: it is missing, expired or revoked.',
  invalid_admin_token: 'Only the operator of this service can do this.',
  over_budget: 'The account tab shows what is left. An operator can raise the limits or add credit.',
  jobs_not_allowed: 'A limit of this key or account is 0. An operator can raise it.',
  insufficient_scope: 'Use a key with the scope named above.',
  link_invalid: NEW_LINK,
  link_revoked: NEW_LINK,
  link_expired: NEW_LINK,
  not_found: 'It was deleted or has expired, or it belongs to another account.',
  method_not_allowed: RELOAD,
  job_canceled: 'Run it again if the image is still wanted.',
  idempotency_in_flight: 'Wait until the first run has ended.',
  key_ended: 'Paste another key: this one was revoked or has expired.',
  too_many_keys: 'Revoke a key that is no longer used, then create a new one.',
  credit_mismatch: 'Use a new id for another amount of credit.',
  webhook_exists: 'Change the existing endpoint instead of creating another one with its URL.',
  webhook_delivered: 'The event was delivered, so there is nothing to send again.',
  account_deleted: 'Use a key of another account.',
  body_too_large: 'Shorten the prompt.',
  uri_too_long: RELOAD,
  unsupported_media_type: RELOAD,
  range_not_satisfiable: 'Load the whole image again.',
  idempotency_mismatch: 'Run it again: it then counts as a new request.',
  max_cost_exceeded: 'The price has changed since it was shown. Check the new price and run again.',
  max_latency_exceeded: 'Allow more time, or choose fewer steps or a smaller size.',
  not_offered: 'Choose another model, route, size or number of steps.',
  header_too_large: 'Paste the key again, without other text.',
  rate_limited: 'Wait a moment, then run again.',
  concurrency_limited: 'Wait until one of the running jobs has ended, or cancel one.',
  generation_failed: 'Run it again: failures of the service cost nothing.',
  internal: `${RUN_AGAIN} If it fails again, send the request number below to the operator.`,
  account_full: 'Delete images that are no longer needed, or ask the operator.',
  gpu_budget_exhausted: `The service has used up today's GPU time. Run it again after midnight UTC. ${NOT_CHARGED}`,
  gpu_unavailable: 'Run it again in a minute: no GPU was free in time.',
  moderation_unavailable: `The prompt could not be checked. ${RUN_AGAIN} ${NOT_CHARGED}`,
  overloaded: RUN_AGAIN,
  offline: 'The run is kept. Run it again once the connection is back.',
} as const satisfies Record<ErrorCode | 'offline', string>

/** The advice for a code; none for codes of other services. */
export const findAdvice = (code: string): string | undefined => (ADVICE as Record<string, string>)[code]
