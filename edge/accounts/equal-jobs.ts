// Jobs of equal requests without an Idempotency-Key: the one that is running, or the one whose result did not reach its caller.
import type { JobSpec } from './job-spec.ts'

/** Jobs whose callers did not receive the result: they disconnected, or the response had begun before the failure. */
export const UNDELIVERED_SCHEMA =
  'CREATE TABLE IF NOT EXISTS undelivered (job TEXT PRIMARY KEY, ended INTEGER NOT NULL, callers INTEGER NOT NULL) STRICT;'

/** The period in which an equal request joins an open job or finds the ended job that it repeats. */
const JOIN_MS = 60_000

/** An open job of an equal request with the same key or token; jobs of others count against other limits. */
const openJobLike = (sql: SqlStorage, { fingerprint, keyId, token }: JobSpec, since: number): string | null =>
  sql
    .exec<{ job: string }>(
      `SELECT job FROM ledger WHERE state = 'reserved' AND fingerprint = ? AND key_id = ? AND token IS ? AND reserved > ?
       LIMIT 1`,
      ...[fingerprint, keyId, token, since],
    )
    .toArray()[0]?.job ?? null

/**
 * The job of an equal request whose result did not reach its caller; see http/heartbeat.ts. Canceled jobs are excluded, because they have
 * no result.
 */
const findUndeliveredJob = (sql: SqlStorage, { fingerprint, keyId, token }: JobSpec): string | null =>
  sql
    .exec<{ job: string }>(
      // CROSS JOIN: the few undelivered jobs are the outer loop.
      `SELECT job FROM undelivered CROSS JOIN ledger USING (job)
       WHERE fingerprint = ? AND key_id = ? AND token IS ? AND undelivered.ended > ?
         AND coalesce(summary ->> 'state', 'open') <> 'canceled' LIMIT 1`,
      ...[fingerprint, keyId, token, Date.now() - JOIN_MS],
    )
    .toArray()[0]?.job ?? null

/** Whether a key or token has a job that an equal request would find. */
export const hasFindableJob = (sql: SqlStorage, { keyId, token }: Pick<JobSpec, 'keyId' | 'token'>): boolean =>
  sql
    .exec(
      `SELECT 1 FROM ledger WHERE state = 'reserved' AND reserved > 0 AND key_id = ?1 AND token IS ?2
       UNION ALL SELECT 1 FROM undelivered CROSS JOIN ledger USING (job) WHERE key_id = ?1 AND token IS ?2 LIMIT 1`,
      ...[keyId, token],
    )
    .toArray().length > 0

/** Whether the job's result is still due to a caller. True once for each of its callers, so that a second retry starts a new job. */
export function takeUndelivered(sql: SqlStorage, job: string): boolean {
  const [row] = sql.exec<{ callers: number }>(
    'UPDATE undelivered SET callers = callers - 1 WHERE job = ? AND ended > ? RETURNING callers',
    ...[job, Date.now() - JOIN_MS],
  )
  if (row && row.callers <= 0) sql.exec('DELETE FROM undelivered WHERE job = ?', job)
  return row !== undefined
}

/** Keeps a job for the retry of its caller, who does not receive the result. */
export function keepUndelivered(sql: SqlStorage, job: string): void {
  const now = Date.now()
  sql.exec('DELETE FROM undelivered WHERE ended <= ?', now - JOIN_MS)
  sql.exec(
    `INSERT INTO undelivered VALUES (?, ?, 1)
     ON CONFLICT (job) DO UPDATE SET callers = callers + 1, ended = excluded.ended`,
    ...[job, now],
  )
}

/** The job that a request repeats; null if there is none. `recent`: an open job must have begun within a minute. */
export const findEqualJob = (sql: SqlStorage, spec: JobSpec, { recent }: { recent: boolean }): string | null =>
  openJobLike(sql, spec, recent ? Date.now() - JOIN_MS : 0) ?? findUndeliveredJob(sql, spec)
