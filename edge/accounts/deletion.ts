// Deletes an account in steps, driven by its alarm, until only the deletion record remains. Every step is idempotent: after an interruption
// it resumes with the remaining data.

import { objectOf } from '../platform/durable-objects.ts'
import { log } from '../platform/log.ts'
import { DAY_MS } from '../platform/units.ts'
import { deletePrefix } from '../results/results.ts'
import { inputPrefixOf, RETENTION_DAYS, resultPrefixOf } from '../results/retention.ts'
import { eraseUsage } from '../usage/database-retention.ts'
import { dropOrphan } from './admission.ts'
import { entryOf, foldRow, sumsOf } from './ledger.ts'
import { findNextExport, isExporting } from './usage-outbox.ts'

export const DELETION_SCHEMA = `
  CREATE TABLE IF NOT EXISTS deletion (
    id INTEGER PRIMARY KEY CHECK (id = 1), requested INTEGER NOT NULL, step TEXT NOT NULL, due INTEGER NOT NULL,
    completed INTEGER, erased INTEGER NOT NULL, jobs INTEGER, credited INTEGER, captured INTEGER) STRICT;`

/**
 * The delay before the account's rows in D1 are deleted. They deduplicate records that the queue delivers twice, and the queue retains
 * messages for four days.
 */
const QUEUE_MS = 5 * DAY_MS
/** The delays before retrying a failed step and before checking the export again. */
const FAILED_MS = 30_000
const EXPORT_MS = 10_000
/** Time limit of one alarm; the next alarm resumes the work. */
const RUN_MS = 10_000
/** Jobs erased concurrently, and rows per transaction. */
const JOBS = 20
const ROWS = 1000

const STEPS = ['jobs', 'files', 'webhooks', 'export', 'account', 'usage', 'done'] as const
type Step = (typeof STEPS)[number]

/** Times are Unix milliseconds. `erased` counts the jobs erased so far. The lifetime sums are set once the account's own rows are deleted. */
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

/** Returns the state of the account's deletion, or null if none was requested. */
export const deletionOf = (sql: SqlStorage): Deletion | null =>
  sql.exec<Deletion & { id: number }>('SELECT * FROM deletion').toArray()[0] ?? null

/** Returns the time of the next deletion step in Unix milliseconds, or null if no deletion is in progress. */
export function findNextDeletion(sql: SqlStorage): number | null {
  const deletion = deletionOf(sql)
  return deletion && deletion.completed === null ? deletion.due : null
}

const EXISTS = ['keys', 'ledger', 'folded', 'credits', 'settings'].map((table) => `EXISTS (SELECT 1 FROM ${table})`)

/**
 * Deletes all keys of the account and starts its deletion, in the caller's transaction. Idempotent. Returns null if the account does not
 * exist.
 */
export function beginDeletion(sql: SqlStorage): Deletion | null {
  const existing = deletionOf(sql)
  if (existing) return existing
  if (!sql.exec<{ exists_: number }>(`SELECT ${EXISTS.join(' OR ')} AS exists_`).one().exists_) return null
  const now = Date.now()
  sql.exec("INSERT INTO deletion (id, requested, step, due, erased) VALUES (1, ?, 'jobs', ?, 0)", now, now)
  sql.exec('DELETE FROM keys')
  return deletionOf(sql)
}

/** The context of a step. `transact` runs a change to the account's rows in one transaction. */
type Erasure = { account: string; sql: SqlStorage; env: Env; transact: (change: () => void) => void }
/** `againMs`: the step is incomplete and runs again after this delay. */
type Outcome = 'done' | { againMs: number }

const NOW: Outcome = { againMs: 0 }

/** Returns jobs that still have customer data, jobs in progress first. */
function selectJobsToErase(sql: SqlStorage): string[] {
  const select = (where: string) =>
    sql
      .exec<{ job: string }>(`SELECT job FROM ledger WHERE ${where} LIMIT ${JOBS}`)
      .toArray()
      .map(({ job }) => job)
  const open = select("state = 'reserved'")
  return open.length > 0 ? open : select("fingerprint <> ''")
}

/** Removes an erased job from the ledger. A row with a pending export is kept until then, stripped of customer data. */
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
  const jobs = selectJobsToErase(sql)
  if (jobs.length === 0) return 'done'
  const erased = await Promise.allSettled(jobs.map((job) => objectOf(env.JOB, job).erase()))
  transact(() => {
    for (const [k, { status }] of erased.entries()) if (status === 'fulfilled') forgetErased(sql, jobs[k]!)
  })
  const failed = erased.filter((each) => each.status === 'rejected')
  // Fail only if no job was erased, so that one failing job does not block the rest.
  if (failed.length === jobs.length) throw failed[0]!.reason
  return NOW
}

/** Deletes orphaned files of the account under the prefix of every retention period. */
async function eraseFiles({ account, env }: Erasure): Promise<Outcome> {
  let complete = await deletePrefix(env.RESULTS, inputPrefixOf(account))
  for (const days of RETENTION_DAYS)
    complete = (await deletePrefix(env.RESULTS, resultPrefixOf(days, account))) && complete
  return complete ? 'done' : NOW
}

async function eraseWebhooks({ account, env }: Erasure): Promise<Outcome> {
  await objectOf(env.WEBHOOK, account).eraseAccount()
  return 'done'
}

/** Waits until every settlement is recorded in D1 and reported to Stripe, so that all usage is billed; then folds the rows. */
async function finishExport({ sql, transact }: Erasure): Promise<Outcome> {
  if (findNextExport(sql) !== null) return { againMs: EXPORT_MS }
  const rows = sql.exec<{ job: string }>(`SELECT job FROM ledger LIMIT ${ROWS}`).toArray()
  transact(() => {
    for (const { job } of rows) foldRow(sql, job)
  })
  return rows.length < ROWS ? 'done' : NOW
}

const TABLES = ['settings', 'credits', 'idempotency', 'undelivered', 'meters', 'usage', 'folded']

/** Deletes the account's own rows and stores its lifetime sums in the deletion record. */
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

/** Deletes the rows in D1, and any data written by requests that were in flight when the deletion started. */
async function eraseRest(erasure: Erasure): Promise<Outcome> {
  await eraseWebhooks(erasure)
  const isErased = (await eraseFiles(erasure)) === 'done' && (await eraseUsage(erasure.env.DB, erasure.account))
  return isErased ? 'done' : NOW
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

/** Runs the deletion steps that are due, for at most RUN_MS. Never throws; a failed step is retried after FAILED_MS. */
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
