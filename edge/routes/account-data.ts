import { type Context, Hono } from 'hono'
import * as z from 'zod'
import type { Deletion } from '../account-deletion.ts'
import { owner } from '../auth.ts'
import { exportLines, parsePosition, START, streamLines } from '../data-export.ts'
import type { EdgeEnv } from '../env.ts'
import { ACCOUNT_DELETED, ApiError } from '../errors.ts'
import { objectOf } from '../objects.ts'
import { parseFields } from '../validation.ts'
import { accountName, deletionView, moneyOf } from './accounts.ts'

const page = z.strictObject({ after: z.string().max(100).optional().describe('the after of an earlier reply') })
const confirmation = z.strictObject({ confirm: z.string().max(100).optional().describe("the account's name") })

/** Where the export of the request begins. Errors: invalid_request. */
function positionOf(c: Context<EdgeEnv>) {
  const { after } = parseFields(page, page.shape, c.req.query())
  const position = after === undefined ? START : parsePosition(after)
  if (position) return position
  throw new ApiError(
    'invalid_request',
    `after is ${JSON.stringify(after)}; it must be the after of an earlier reply.`,
    {
      param: 'after',
    },
  )
}

/** Sends everything that is stored of an account. Errors: account_deleted. */
async function sendExport(c: Context<EdgeEnv>, account: string) {
  const position = positionOf(c)
  const { deletion, settings, ...view } = await objectOf(c.env.ACCOUNT, account).view()
  if (deletion) throw new Error(ACCOUNT_DELETED)
  const source = { env: c.env, account, origin: new URL(c.req.url).origin }
  const about = { type: 'account', account, exported: Math.floor(Date.now() / 1000), ...settings }
  async function* lines() {
    if (position === START) yield { ...about, ...moneyOf({ ...view, settings }) }
    yield* exportLines(source, position)
  }
  return c.body(streamLines(lines()), 200, {
    'content-type': 'application/x-ndjson',
    'content-disposition': `attachment; filename="${account}.jsonl"`,
  })
}

/** Begins the deletion of an account, which the request must confirm. Errors: invalid_request, not_found. */
async function startDeletion(c: Context<EdgeEnv>, account: string) {
  const { confirm } = parseFields(confirmation, confirmation.shape, c.req.query())
  if (confirm !== account) {
    const given = confirm === undefined ? 'missing' : JSON.stringify(confirm)
    const message = `confirm is ${given}; it must be "${account}". This ends all keys of ${account} at once and deletes all of its data for good.`
    throw new ApiError('invalid_request', message, { param: 'confirm' })
  }
  const deletion: Deletion | null = await objectOf(c.env.ACCOUNT, account).deleteAccount()
  if (!deletion) throw new ApiError('not_found', `There is no account ${account}.`)
  return c.json({ account, deletion: deletionView(deletion) }, 202)
}

/** GET /v1/accounts/{account}/export and DELETE /v1/accounts/{account}, for the operator. */
export const accountData = new Hono<EdgeEnv>()
  .get('/:account/export', (c) => sendExport(c, accountName(c.req.param('account'))))
  .delete('/:account', (c) => startDeletion(c, accountName(c.req.param('account'))))

/** GET /v1/account/export and DELETE /v1/account, for a key of scope `admin`. */
export const ownAccount = new Hono<EdgeEnv>()
  .get('/export', async (c) => sendExport(c, (await owner(c, 'admin')).account))
  .delete('/', async (c) => startDeletion(c, (await owner(c, 'admin')).account))
