// Retention of rows in D1. Observations are deleted; usage is folded into sums by day, account and tier, so that totals do not change.

import { log } from '../platform/log.ts'
import { DAY_MS } from '../platform/units.ts'
import { OBSERVATION_DAYS, USAGE_DAYS } from '../results/retention.ts'

/** Rows per transaction and transactions per run: D1 limits a statement to 30 seconds and blocks other queries meanwhile. */
const BATCH = 1000
const BATCHES = 20

/** The account name for the usage of deleted accounts in usage_daily. It is not a valid account name. */
export const DELETED_ACCOUNT = ''

const ADD = `ON CONFLICT (account, day, tier) DO UPDATE SET
  jobs = jobs + excluded.jobs, captured = captured + excluded.captured, charged = charged + excluded.charged`

/**
 * Folds up to a thousand rows of usage_ledger into usage_daily under the account `into`, an SQL expression, and deletes them in the same
 * transaction, so that no row is counted twice or lost. Returns the number of rows.
 */
async function foldUsage(db: D1Database, into: string, where: string, value: string | number): Promise<number> {
  const rows = `SELECT id FROM usage_ledger WHERE ${where} ORDER BY settled, id LIMIT ${BATCH}`
  const [, deleted] = await db.batch([
    db
      .prepare(
        `INSERT INTO usage_daily
         SELECT ${into}, date(settled / 1000, 'unixepoch'), tier, count(*), sum(state = 'captured'), sum(charged)
         FROM usage_ledger WHERE id IN (${rows}) GROUP BY 1, 2, 3 ${ADD}`,
      )
      .bind(value),
    db.prepare(`DELETE FROM usage_ledger WHERE id IN (${rows})`).bind(value),
  ])
  return deleted!.meta.changes
}

async function deleteObservations(db: D1Database, where: string, ...values: (string | number)[]): Promise<number> {
  const rows = `SELECT id FROM observations WHERE ${where} LIMIT ${BATCH}`
  const { meta } = await db
    .prepare(`DELETE FROM observations WHERE id IN (${rows})`)
    .bind(...values)
    .run()
  return meta.changes
}

/** Repeats a step until it processes less than a full batch. Returns false if the batch limit was reached first. */
async function repeat(step: () => Promise<number>): Promise<boolean> {
  for (let batch = 0; batch < BATCHES; batch++) if ((await step()) < BATCH) return true
  return false
}

/** Runs every minute: deletes expired observations and folds expired usage. The next run continues any remaining work. */
export async function applyRetention({ DB }: Pick<Env, 'DB'>, now = Date.now()): Promise<void> {
  try {
    await repeat(() => deleteObservations(DB, 'finished < ?', now - OBSERVATION_DAYS * DAY_MS))
    await repeat(() => foldUsage(DB, 'account', 'settled < ?', now - USAGE_DAYS * DAY_MS))
  } catch (cause) {
    log('error', 'expired database rows could not be deleted', { cause })
  }
}

/**
 * Deletes an account's rows. Its usage is kept as anonymous sums by day and tier for the operator's accounting. Returns whether the
 * deletion is complete; if not, call it again.
 */
export async function eraseUsage(db: D1Database, account: string): Promise<boolean> {
  // An observation's id begins with the account's name and a slash; "0" is the character after the slash.
  const eraseObservations = () => deleteObservations(db, 'id >= ? AND id < ?', `${account}/`, `${account}0`)
  const eraseUsageRows = () => foldUsage(db, `'${DELETED_ACCOUNT}'`, 'account = ?', account)
  if (!(await repeat(eraseObservations)) || !(await repeat(eraseUsageRows))) return false
  await db.batch([
    db
      .prepare(
        `INSERT INTO usage_daily SELECT '${DELETED_ACCOUNT}', day, tier, jobs, captured, charged FROM usage_daily
         WHERE account = ? ${ADD}`,
      )
      .bind(account),
    db.prepare('DELETE FROM usage_daily WHERE account = ?').bind(account),
  ])
  return true
}
