// Limits of an account, key or browser token, and the defaults of an account: the variable OCTET_ACCOUNT_LIMITS.
import * as z from 'zod'
import { MICRODOLLARS } from '../platform/units.ts'
import { createTableSchema } from './values.ts'

const createLimitSchema = (value: number, unit: string) =>
  z.int().min(0).max(value).nullable().describe(`null for no limit, or a whole number of ${unit} up to ${value}`)
const money = createLimitSchema(1_000_000 * MICRODOLLARS, 'micro-dollars')

/** The field names are those of the API. */
const fields = {
  requests_per_minute: createLimitSchema(1_000_000, 'requests'),
  concurrent_jobs: createLimitSchema(100_000, 'jobs'),
  daily_microdollars: money,
  monthly_microdollars: money,
  total_microdollars: money,
}
const description = `an object of ${Object.keys(fields).join(', ')}, each null or a whole number from 0`

/** A partial update of limits. Null removes a limit. */
export const limitsChange = z.strictObject(fields).partial().describe(description)
/** Null or an omitted field means no limit. */
const limits = z.strictObject({
  requests_per_minute: fields.requests_per_minute.default(null),
  concurrent_jobs: fields.concurrent_jobs.default(null),
  daily_microdollars: money.default(null),
  monthly_microdollars: money.default(null),
  total_microdollars: money.default(null),
})
export type Limits = z.infer<typeof limits>

export const UNLIMITED: Limits = limits.parse({})

export const accountLimits = z
  .object({ OCTET_ACCOUNT_LIMITS: createTableSchema(limits.prefault({})) })
  .transform(({ OCTET_ACCOUNT_LIMITS }) => OCTET_ACCOUNT_LIMITS)
