// Converts an account's refusal to an API error: its code, message, and retry headers.

import type { Admission, Permission } from '../accounts/admission.ts'
import type { Refusal } from '../accounts/meter.ts'
import { createRateHeaders, type Holder, type RateState } from '../accounts/rate-limit-headers.ts'
import { createForbiddenError, createUnauthorizedError } from '../auth/auth.ts'
import { GPU_BUDGET_EXHAUSTED, secondsToNextDay } from '../gpu/budget.ts'
import { ApiError } from '../http/errors.ts'
import { formatDollars } from '../platform/units.ts'

/** Disables retries in the OpenAI SDKs. */
const FINAL = { 'x-should-retry': 'false' }
const WHOSE: Record<Holder, string> = {
  account: 'This account',
  creator: 'An ancestor of this API key',
  key: 'This API key',
  token: 'This browser token',
}

function limitError(refusal: Extract<Refusal, { kind: 'limited' }>, rates: RateState[]): ApiError {
  const { by, holder, limit, retryAfterSeconds } = refusal
  const headers = {
    ...createRateHeaders(rates),
    'retry-after': String(retryAfterSeconds),
    'retry-after-ms': String(retryAfterSeconds * 1000),
  }
  const [code, allowed] =
    by === 'rate'
      ? (['rate_limited', `start ${limit} jobs per minute; try again in ${retryAfterSeconds} s`] as const)
      : ([
          'concurrency_limited',
          `have ${limit} concurrent jobs and has reached that limit; wait for one to finish`,
        ] as const)
  return new ApiError(code, `${WHOSE[holder]} may ${allowed}.`, { headers })
}

/** The API name of each limit. */
const LIMIT_NAMES = { rate: 'requests_per_minute', concurrency: 'concurrent_jobs' } as const

function createBarredError({ by, holder }: Extract<Refusal, { kind: 'barred' }>): ApiError {
  const message = `${WHOSE[holder]} may not start jobs: its ${LIMIT_NAMES[by]} limit is 0. Ask for a higher limit.`
  return new ApiError('jobs_not_allowed', message, { headers: FINAL })
}

const BUDGETS = {
  balance: 'has credit of',
  daily: 'may spend today',
  monthly: 'may spend this month',
  total: 'may spend',
} as const

function createOverBudgetError(
  { by, holder, available, price }: Extract<Refusal, { kind: 'over_budget' }>,
  rates: RateState[],
) {
  const message = `The request costs ${formatDollars(price)}. ${WHOSE[holder]} ${BUDGETS[by]} ${formatDollars(available)} more.`
  return new ApiError('over_budget', message, { headers: { ...createRateHeaders(rates), ...FINAL } })
}

/** The headers of `gpu_budget_exhausted`. */
export const createNextDayHeaders = () => ({ ...FINAL, 'retry-after': String(secondsToNextDay(Date.now())) })

/** Returns the error of a refused admission or permission, or null if there is no refusal. */
export function createAdmissionError(admission: Admission | Permission): ApiError | null {
  switch (admission.kind) {
    case 'unauthorized':
      return createUnauthorizedError()
    case 'forbidden':
      return createForbiddenError(admission.scope)
    case 'limited':
      return limitError(admission, admission.rates)
    case 'barred':
      return createBarredError(admission)
    case 'over_budget':
      return createOverBudgetError(admission, admission.rates)
    case 'exhausted':
      return new ApiError('gpu_budget_exhausted', GPU_BUDGET_EXHAUSTED, {
        headers: { ...createRateHeaders(admission.rates), ...createNextDayHeaders() },
      })
    case 'mismatch': {
      const what = admission.by === 'name' ? 'This name belongs to the job of' : 'This Idempotency-Key was used with'
      return new ApiError('idempotency_mismatch', `${what} another request; use a new one.`, { headers: FINAL })
    }
    case 'full': {
      const message =
        'This account has reached its storage limit. Expired jobs are deleted daily; ask the operator for a shorter retention_days.'
      return new ApiError('account_full', message, { headers: FINAL })
    }
    case 'admitted':
    case 'permitted':
    case 'repeated':
    case 'reused':
      return null
  }
}
