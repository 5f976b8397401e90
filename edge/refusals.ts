// What an account refuses, as the caller is told: code, sentence, and the headers that clients act on.
import type { Admission } from './admission.ts'
import { forbidden, unauthorised } from './auth.ts'
import { ApiError } from './errors.ts'
import { type Holder, type RateState, rateHeaders } from './limits.ts'
import type { Refusal } from './meter.ts'
import { dollars } from './price.ts'

/** The OpenAI SDKs obey it: another try would be refused as well. */
const FINAL = { 'x-should-retry': 'false' }
const WHOSE: Record<Holder, string> = {
  account: 'This account',
  creator: 'The API key that this one descends from',
  key: 'This API key',
  token: 'This browser token',
}

function limited(refusal: Extract<Refusal, { kind: 'limited' }>, rates: RateState[]): ApiError {
  const { by, holder, limit, retryAfterSeconds } = refusal
  const headers = {
    ...rateHeaders(rates),
    'retry-after': String(retryAfterSeconds),
    'retry-after-ms': String(retryAfterSeconds * 1000),
  }
  return by === 'rate'
    ? new ApiError(
        'rate_limited',
        `${WHOSE[holder]} may start ${limit} jobs a minute; try again in ${retryAfterSeconds} s.`,
        {
          headers,
        },
      )
    : new ApiError(
        'concurrency_limited',
        `${WHOSE[holder]} may have ${limit} jobs at a time, and has them; wait for one to end.`,
        {
          headers,
        },
      )
}

/** The limit that is zero, as the API names it. */
const BARS = { rate: 'requests_per_minute', concurrency: 'concurrent_jobs' } as const

function barred({ by, holder }: Extract<Refusal, { kind: 'barred' }>): ApiError {
  const message = `${WHOSE[holder]} may not start jobs: its limit ${BARS[by]} is 0. Have that limit raised.`
  return new ApiError('jobs_not_allowed', message, { headers: FINAL })
}

const BUDGETS = {
  balance: 'has credit of',
  daily: 'may spend today',
  monthly: 'may spend this month',
  total: 'may spend',
} as const

function overBudget({ by, holder, available, price }: Extract<Refusal, { kind: 'over_budget' }>, rates: RateState[]) {
  const message = `The request costs ${dollars(price)}. ${WHOSE[holder]} ${BUDGETS[by]} ${dollars(available)} more.`
  return new ApiError('over_budget', message, { headers: { ...rateHeaders(rates), ...FINAL } })
}

/** The error of an admission that refuses the request, or null for one that does not. */
export function refusedBy(admission: Admission): ApiError | null {
  switch (admission.kind) {
    case 'unauthorised':
      return unauthorised()
    case 'forbidden':
      return forbidden(admission.scope)
    case 'limited':
      return limited(admission, admission.rates)
    case 'barred':
      return barred(admission)
    case 'over_budget':
      return overBudget(admission, admission.rates)
    case 'mismatch': {
      const what = admission.by === 'name' ? 'This name belongs to the job of' : 'This Idempotency-Key was used with'
      return new ApiError('idempotency_mismatch', `${what} another request; use a new one.`, { headers: FINAL })
    }
    case 'full': {
      const message =
        'This account has as many jobs as it can store. Old ones are deleted each day; ask the operator for a shorter retention_days.'
      return new ApiError('account_full', message, { headers: FINAL })
    }
    case 'admitted':
    case 'repeated':
    case 'reused':
      return null
  }
}
