import { Hono } from 'hono'
import * as z from 'zod'
import type { AccountView } from '../../accounts/account.ts'
import type { Deletion } from '../../accounts/deletion.ts'
import { ACCOUNT_NAME } from '../../auth/keys.ts'
import { limitsChange } from '../../config/limits.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { ApiError } from '../../http/errors.ts'
import { parseFields, readJson } from '../../http/validation.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { MICRODOLLARS, toUnixSeconds } from '../../platform/units.ts'
import { RETENTION_DAYS } from '../../results/retention.ts'
import type { AccountReply, DeletionReply, MoneyReply } from '../replies.ts'

const max = 1_000_000 * MICRODOLLARS
export const settings = z.strictObject({
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
  prompt_metadata: z.boolean().optional().describe('true or false'),
})
export const credit = z.strictObject({
  id: z.string().min(1).max(100).describe('a string of 1 to 100 characters that identifies this payment'),
  amount_microdollars: z
    .int()
    .min(-max)
    .max(max)
    .describe('a whole number of micro-dollars; a negative amount reverses a credit'),
  note: z.string().max(200).default('').describe('a text of at most 200 characters'),
})

/** Returns an account's balance as the API presents it. */
export const moneyOf = ({
  balance,
  credited,
  captured,
  reserved,
  open,
  settings,
}: Omit<AccountView, 'deletion'>): MoneyReply => ({
  prepaid: settings.prepaid,
  balance_microdollars: balance,
  credited_microdollars: credited,
  captured_microdollars: captured,
  reserved_microdollars: reserved,
  open_jobs: open,
})

/** Returns the state of an account's deletion as the API presents it. */
export const createDeletionView = ({
  requested,
  completed,
  step,
  due,
  erased,
  jobs,
  credited,
  captured,
}: Deletion): DeletionReply => ({
  state: completed === null ? 'deleting' : 'deleted',
  requested: toUnixSeconds(requested),
  completed: toUnixSeconds(completed),
  ...(completed === null && { step, continues: toUnixSeconds(due) }),
  jobs_deleted: erased,
  ...(jobs !== null && { jobs, credited_microdollars: credited!, captured_microdollars: captured! }),
})

/** Validates the account name in a path. Errors: not_found if it is malformed. */
export const parseAccountName = (name: string) => {
  if (ACCOUNT_NAME.test(name)) return name
  throw new ApiError(
    'not_found',
    `There is no account ${name}; a name consists of 1 to 32 characters from a-z, 0-9 and "-".`,
  )
}

/** Accounts, for the operator: settings, credits and balances. */
export const accounts = new Hono<EdgeEnv>()
  .get('/:account', async (c) => {
    const account = parseAccountName(c.req.param('account'))
    const view = await objectOf(c.env.ACCOUNT, account).view()
    const deletion = view.deletion && createDeletionView(view.deletion)
    return c.json({ account, ...view.settings, ...moneyOf(view), deletion } satisfies AccountReply)
  })
  .patch('/:account', async (c) => {
    const account = parseAccountName(c.req.param('account'))
    const given = Object.entries(parseFields(settings, settings.shape, await readJson(c)))
    const change = Object.fromEntries(given.filter(([, value]) => value !== undefined))
    return c.json({ account, ...(await objectOf(c.env.ACCOUNT, account).configure(change)) })
  })
  .post('/:account/credits', async (c) => {
    const account = parseAccountName(c.req.param('account'))
    const { id, amount_microdollars, note } = parseFields(credit, credit.shape, await readJson(c))
    const object = objectOf(c.env.ACCOUNT, account)
    const existing = await object.credit(id, amount_microdollars, note)
    if (existing.amount !== amount_microdollars) {
      const message = `The credit ${id} already exists with ${existing.amount} micro-dollars; use a new id for a correction.`
      throw new ApiError('credit_mismatch', message, { param: 'id' })
    }
    return c.json({ id, amount_microdollars, note: existing.note, ...moneyOf(await object.view()) })
  })
