import { Hono } from 'hono'
import * as z from 'zod'
import { utcDayOf } from '../../accounts/meter.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { ApiError } from '../../http/errors.ts'
import { parseFields } from '../../http/validation.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { DAY_MS } from '../../platform/units.ts'
import { moneyOf } from './accounts.ts'

const MAX_DAYS = 366
const date = z.iso.date().describe('a date like 2026-11-22, in UTC')
export const query = z.strictObject({ from: date.optional(), to: date.optional() })

/** Captured usage of an account by UTC day, key and tier, and its balance. The default range is the last 30 days. */
export const usage = new Hono<EdgeEnv>().get('/', async (c) => {
  const { account } = c.get('credential')
  const { to = utcDayOf(Date.now()), from = utcDayOf(Date.parse(to) - 29 * DAY_MS) } = parseFields(
    query,
    query.shape,
    c.req.query(),
  )
  const days = (Date.parse(to) - Date.parse(from)) / DAY_MS + 1
  if (days < 1 || days > MAX_DAYS) {
    const message = `from is ${from} and to is ${to}; from must not be later than to, and the range must not exceed ${MAX_DAYS} days.`
    throw new ApiError('invalid_request', message, { param: 'from' })
  }
  const object = objectOf(c.env.ACCOUNT, account)
  const [rows, view] = await Promise.all([object.usage(from, to), object.view()])
  const data = rows.map(({ amount, ...row }) => ({ ...row, price_microdollars: amount }))
  const total = rows.reduce((sum, { amount }) => sum + amount, 0)
  const body = { object: 'list', account, from, to, data, total_microdollars: total, ...moneyOf(view) }
  const { limits, retention_days } = view.settings
  const key = { id: c.get('credential').keyId, scopes: c.get('scopes') }
  return c.json({ ...body, limits, retention_days, key })
})
