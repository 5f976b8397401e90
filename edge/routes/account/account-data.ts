import { type Context, Hono } from 'hono'
import * as z from 'zod'
import type { Deletion } from '../../accounts/deletion.ts'
import { requireScope } from '../../auth/auth.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { ACCOUNT_DELETED, ApiError } from '../../http/errors.ts'
import { parseFields } from '../../http/validation.ts'
import { exportLines, parsePosition, START, streamLines } from '../../operations/account-export.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { createDeletionView, moneyOf, parseAccountName } from './accounts.ts'

export const page = z.strictObject({
  after: z.string().max(100).optional().describe('the after value of an earlier response'),
})
export const confirmation = z.strictObject({ confirm: z.string().max(100).optional().describe("the account's name") })

/** Returns the start position of the requested export. Errors: invalid_request. */
function positionOf(c: Context<EdgeEnv>) {
  const { after } = parseFields(page, page.shape, c.req.query())
  const position = after === undefined ? START : parsePosition(after)
  if (position) return position
  throw new ApiError(
    'invalid_request',
    `after is ${JSON.stringify(after)}; it must be the after value of an earlier response.`,
    {
      param: 'after',
    },
  )
}

/** Streams all data of an account. Errors: account_deleted. */
async function sendExport(c: Context<EdgeEnv>, account: string) {
  const position = positionOf(c)
  const { deletion, settings, ...view } = await objectOf(c.env.ACCOUNT, account).view()
  if (deletion) throw new Error(ACCOUNT_DELETED)
  const source = { env: c.env, account, origin: new URL(c.req.url).origin }
  const summary = { type: 'account', account, exported: Math.floor(Date.now() / 1000), ...settings }
  async function* streamEntries() {
    if (position === START) yield { ...summary, ...moneyOf({ ...view, settings }) }
    yield* exportLines(source, position)
  }
  return c.body(streamLines(streamEntries()), 200, {
    'content-type': 'application/x-ndjson',
    'content-disposition': `attachment; filename="${account}.jsonl"`,
  })
}

/** Starts the deletion of an account. The request must confirm the account's name. Errors: invalid_request, not_found. */
async function startDeletion(c: Context<EdgeEnv>, account: string) {
  const { confirm } = parseFields(confirmation, confirmation.shape, c.req.query())
  if (confirm !== account) {
    const given = confirm === undefined ? 'missing' : JSON.stringify(confirm)
    const message = `confirm is ${given}; it must be "${account}". This immediately revokes all keys of ${account} and permanently deletes all of its data.`
    throw new ApiError('invalid_request', message, { param: 'confirm' })
  }
  const deletion: Deletion | null = await objectOf(c.env.ACCOUNT, account).deleteAccount()
  if (!deletion) throw new ApiError('not_found', `There is no account ${account}.`)
  return c.json({ account, deletion: createDeletionView(deletion) }, 202)
}

/** GET /v1/accounts/{account}/export and DELETE /v1/accounts/{account}, for the operator. */
export const accountData = new Hono<EdgeEnv>()
  .get('/:account/export', (c) => sendExport(c, parseAccountName(c.req.param('account'))))
  .delete('/:account', (c) => startDeletion(c, parseAccountName(c.req.param('account'))))

/** Returns the account of an admin key that has rights to the whole account. Errors: insufficient_scope. */
async function requireWholeAccount(c: Context<EdgeEnv>): Promise<string> {
  const { account, keyId } = await requireScope(c, 'admin')
  if (await objectOf(c.env.ACCOUNT, account).isRootKey(keyId)) return account
  const message =
    'Only an admin key without limits that was created by the operator may export or delete the whole account.'
  throw new ApiError('insufficient_scope', message)
}

/** GET /v1/account/export and DELETE /v1/account, for an admin key without limits that was created by the operator. */
export const ownAccount = new Hono<EdgeEnv>()
  .get('/export', async (c) => {
    await requireScope(c, 'read')
    return sendExport(c, await requireWholeAccount(c))
  })
  .delete('/', async (c) => startDeletion(c, await requireWholeAccount(c)))
