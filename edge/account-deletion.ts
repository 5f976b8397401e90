// Deletion of an account, in steps that its alarm repeats until nothing is left but a record of the deletion. A step that is cut short
// continues with what is still there.
import { entryOf, foldRow, sumsOf } from './account-ledger.ts'
import { isExporting, nextExport } from './account-outbox.ts'
import { dropOrphan } from './admission.ts'
import { eraseUsage } from './database-retention.ts'
import type { Env } from './env.ts'
import { log } from './log.ts'
import { objectOf } from './objects.ts'
import { deletePrefix } from './results.ts'
import { RETENTION_DAYS, resultPrefix } from './retention.ts'

export const DELETION_SCHEMA = `
  CREATE TABLE IF NOT EXISTS deletion (
    id INTEGER PRIMARY KEY CHECK (id = 1), requested INTEGER NOT NULL, step TEXT NOT NULL, due INTEGER NOT NULL,
    completed INTEGER, erased INTEGER NOT NULL, jobs INTEGER, credited INTEGER, captured INTEGER) STRICT;`

/**
 * How long rows in D1 outlive the rest: they make a record that the Queue delivers twice count once, and it keeps messages for four days.
 */
const QUEUE_MS = 5 * 24 * 3600_000
/** The pauses after a step that failed, and while the export is awaited. */
const FAILED_MS = 30_000
const EXPORT_MS = 10_000
/** Work of one alarm; the next one continues. */
const RUN_MS = 10_000
/** Jobs that are erased at once, and rows of one transaction. */
const JOBS = 20
const ROWS = 1000

const STEPS = ['jobs', 'files', 'webhooks', 'export', 'account', 'usage', 'done'] as const
type Step = (typeof STEPS)[number]

/** Times are Unix milliseconds. `erased`: jobs so far. The sums of the account's life are there once its own rows are gone. */
export type Deletion = {
  requested: number
  step: Step
  due: number
  completed: number | null
  erased: number
  jobs: number | null
  credited: number | null
  captured: number | null
}

/** The state of the account's deletion; null when nobody asked for one. */
export const deletionOf = (sql: SqlStorage): Deletion | null =>
  sql.exec<Deletion & { id: number }>('SELECT * FROM deletion').toArray()[0] ?? null

/** When the deletion continues, in Unix milliseconds; null without one. */
export function nextDeletion(sql: SqlStorage): number | null {
  const deletion = deletionOf(sql)
  return deletion && deletion.completed === null ? deletion.due : null
}

const EXISTS = ['keys', 'ledger', 'folded', 'credits', 'settings'].map((table) => `EXISTS (SELECT 1 FROM ${table})`)

/**
 * Ends all keys of the account for good and begins its deletion, in the caller's transaction; a repeat changes nothing. Null when there is
 * no account of this name.
 */
export function beginDeletion(sql: SqlStorage): Deletion | null {
  const known = deletionOf(sql)
  if (known) return known
  if (!sql.exec<{ exists_: number }>(`SELECT ${EXISTS.join(' OR ')} AS exists_`).one().exists_) return null
  const now = Date.now()
  sql.exec("INSERT INTO deletion (id, requested, step, due, erased) VALUES (1, ?, 'jobs', ?, 0)", now, now)
  sql.exec('DELETE FROM keys')
  return deletionOf(sql)
}

/** What a step needs. `transact` runs a change of the account's rows in one transaction. */
export type Erasure = { account: string; sql: SqlStorage; env: Env; transact: (change: () => void) => void }
/** `againMs`: the step has more to do, after this pause. */
type Outcome = 'done' | { againMs: number }

const NOW: Outcome = { againMs: 0 }

/** Jobs with data of the caller: open ones first, because they still run. */
function jobsToErase(sql: SqlStorage): string[] {
  const select = (where: string) =>
    sql
      .exec<{ job: string }>(`SELECT job FROM ledger WHERE ${where} LIMIT ${JOBS}`)
      .toArray()
      .map(({ job }) => job)
  const open = select("state = 'reserved'")
  return open.length > 0 ? open : select("fingerprint <> ''")
}

/** Removes an erased job from the ledger. A row that is still to be exported stays until then, without data of the caller. */
function forgetErased(sql: SqlStorage, job: string): void {
  if (entryOf(sql, job)?.state === 'reserved') dropOrphan(sql, job)
  else if (isExporting(sql, job))
    sql.exec(
      `UPDATE ledger SET name = NULL, token = NULL, fingerprint = '', digest = '', spec = NULL, summary = NULL
       WHERE job = ?`,
      job,
    )
  else foldRow(sql, job)
  sql.exec('UPDATE deletion SET erased = erased + 1')
}

async function eraseJobs({ sql, env, transact }: Erasure): Promise<Outcome> {
  const jobs = jobsToErase(sql)
  if (jobs.length === 0) return 'done'
  const erased = await Promise.allSettled(jobs.map((job) => objectOf(env.JOB, job).erase()))
  transact(() => {
    for (const [k, { status }] of erased.entries()) if (status === 'fulfilled') forgetErased(sql, jobs[k]!)
  })
  const failed = erased.filter((each) => each.status === 'rejected')
  // The others go first: one job must not hold up all of them.
  if (failed.length === jobs.length) throw failed[0]!.reason
  return NOW
}

/** Deletes files that no job names any more, wherever the account's retention had them stored. */
async function eraseFiles({ account, env }: Erasure): Promise<Outcome> {
  let complete = true
  for (const days of RETENTION_DAYS)
    complete = (await deletePrefix(env.RESULTS, resultPrefix(days, account))) && complete
  return complete ? 'done' : NOW
}

async function eraseWebhooks({ account, env }: Erasure): Promise<Outcome> {
  await objectOf(env.WEBHOOK, account).eraseAccount()
  return 'done'
}

/** Waits until every settlement has arrived in D1, and at Stripe: what was used is still billed. Then folds the rows. */
async function finishExport({ sql, transact }: Erasure): Promise<Outcome> {
  if (nextExport(sql) !== null) return { againMs: EXPORT_MS }
  const rows = sql.exec<{ job: string }>(`SELECT job FROM ledger LIMIT ${ROWS}`).toArray()
  transact(() => {
    for (const { job } of rows) foldRow(sql, job)
  })
  return rows.length < ROWS ? 'done' : NOW
}

const TABLES = ['settings', 'credits', 'idempotency', 'meters', 'usage', 'folded']

/** Deletes the account's own rows; the sums of its life stay with the record of the deletion. */
async function eraseAccount({ sql, transact }: Erasure): Promise<Outcome> {
  transact(() => {
    const [folded] = sql.exec<{ jobs: number }>('SELECT jobs FROM folded').toArray()
    const { credited, captured } = sumsOf(sql)
    sql.exec(
      'UPDATE deletion SET jobs = ?, credited = ?, captured = ? WHERE jobs IS NULL',
      ...[folded?.jobs ?? 0, credited, captured],
    )
    for (const table of TABLES) sql.exec(`DELETE FROM ${table}`)
  })
  return 'done'
}

/** Deletes the rows in D1, and what requests that were under way at the time have written since. */
async function eraseRest(erasure: Erasure): Promise<Outcome> {
  await eraseWebhooks(erasure)
  const isGone = (await eraseFiles(erasure)) === 'done' && (await eraseUsage(erasure.env.DB, erasure.account))
  return isGone ? 'done' : NOW
}

const PERFORM: Record<Exclude<Step, 'done'>, (erasure: Erasure) => Promise<Outcome>> = {
  jobs: eraseJobs,
  files: eraseFiles,
  webhooks: eraseWebhooks,
  export: finishExport,
  account: eraseAccount,
  usage: eraseRest,
}

function advance(sql: SqlStorage, { step }: Deletion, outcome: Outcome): void {
  const now = Date.now()
  if (outcome !== 'done') return void sql.exec('UPDATE deletion SET due = ?', now + outcome.againMs)
  const next = STEPS[STEPS.indexOf(step) + 1]!
  const due = next === 'usage' ? now + QUEUE_MS : now
  sql.exec('UPDATE deletion SET step = ?, due = ?, completed = ?', next, due, next === 'done' ? now : null)
}

/** Continues the deletion as far as it is due, for some seconds. It never throws; a step that failed is due again in 30 seconds. */
export async function continueDeletion(erasure: Erasure): Promise<void> {
  const { sql, account } = erasure
  const end = Date.now() + RUN_MS
  for (let now = Date.now(); now < end; now = Date.now()) {
    const deletion = deletionOf(sql)
    if (!deletion || deletion.step === 'done' || deletion.due > now) return
    try {
      advance(sql, deletion, await PERFORM[deletion.step](erasure))
    } catch (cause) {
      log('error', 'a step of the deletion of an account failed', { account, step: deletion.step, cause })
      return void sql.exec('UPDATE deletion SET due = ?', now + FAILED_MS)
    }
  }
}
