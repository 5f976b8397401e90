import { Hono } from 'hono'
import * as z from 'zod'
import type { AccountView } from '../account.ts'
import type { Deletion } from '../account-deletion.ts'
import type { EdgeEnv } from '../env.ts'
import { ApiError } from '../errors.ts'
import { ACCOUNT_NAME } from '../keys.ts'
import { limitsChange } from '../limits.ts'
import { objectOf } from '../objects.ts'
import { MICRODOLLARS } from '../price.ts'
import { RETENTION_DAYS } from '../retention.ts'
import { parseFields, readJson } from '../validation.ts'

const most = 1_000_000 * MICRODOLLARS
const settings = z.strictObject({
  limits: limitsChange.optional(),
  prepaid: z.boolean().optional().describe('true or false'),
  stripe_customer: z
    .string()
    .regex(/^cus_[A-Za-z0-9]{1,64}$/)
    .nullable()
    .optional()
    .describe('null or the id of a customer at Stripe, cus_…'),
  retention_days: z
    .literal(RETENTION_DAYS)
    .optional()
    .describe(`one of ${RETENTION_DAYS.join(', ')}`),
})
const credit = z.strictObject({
  id: z.string().min(1).max(100).describe('a text of 1 to 100 characters that names this payment'),
  amount_microdollars: z
    .int()
    .min(-most)
    .max(most)
    .describe('a whole number of micro-dollars; a negative one takes back'),
  note: z.string().max(200).default('').describe('a text of at most 200 characters'),
})

/** An account's money as the API tells it. */
export const moneyOf = ({ balance, credited, captured, reserved, open, settings }: Omit<AccountView, 'deletion'>) => ({
  prepaid: settings.prepaid,
  balance_microdollars: balance,
  credited_microdollars: credited,
  captured_microdollars: captured,
  reserved_microdollars: reserved,
  open_jobs: open,
})

const unixSeconds = (milliseconds: number | null) => (milliseconds === null ? null : Math.floor(milliseconds / 1000))

/** How the deletion of an account stands. The sums of its life are there once the account's own rows are gone. */
export const deletionView = ({ requested, completed, step, due, erased, jobs, credited, captured }: Deletion) => ({
  state: completed === null ? 'deleting' : 'deleted',
  requested: unixSeconds(requested),
  completed: unixSeconds(completed),
  ...(completed === null && { step, continues: unixSeconds(due) }),
  jobs_deleted: erased,
  ...(jobs !== null && { jobs, credited_microdollars: credited, captured_microdollars: captured }),
})

/** The account's name in a path. Errors: not_found when none can have it. */
export const accountName = (name: string) => {
  if (ACCOUNT_NAME.test(name)) return name
  throw new ApiError('not_found', `There is no account ${name}; a name has 1 to 32 of a-z, 0-9 and "-".`)
}

/** Accounts, for the operator: what they may use, what they paid, and what they have left. */
export const accounts = new Hono<EdgeEnv>()
  .get('/:account', async (c) => {
    const account = accountName(c.req.param('account'))
    const view = await objectOf(c.env.ACCOUNT, account).view()
    const deletion = view.deletion && deletionView(view.deletion)
    return c.json({ account, ...view.settings, ...moneyOf(view), deletion })
  })
  .patch('/:account', async (c) => {
    const account = accountName(c.req.param('account'))
    const given = Object.entries(parseFields(settings, settings.shape, await readJson(c)))
    const change = Object.fromEntries(given.filter(([, value]) => value !== undefined))
    return c.json({ account, ...(await objectOf(c.env.ACCOUNT, account).configure(change)) })
  })
  .post('/:account/credits', async (c) => {
    const account = accountName(c.req.param('account'))
    const { id, amount_microdollars, note } = parseFields(credit, credit.shape, await readJson(c))
    const object = objectOf(c.env.ACCOUNT, account)
    const stands = await object.credit(id, amount_microdollars, note)
    if (stands.amount !== amount_microdollars) {
      const message = `The credit ${id} stands at ${stands.amount} micro-dollars; a correction needs an id of its own.`
      throw new ApiError('credit_mismatch', message, { param: 'id' })
    }
    return c.json({ id, amount_microdollars, note: stands.note, ...moneyOf(await object.view()) })
  })
