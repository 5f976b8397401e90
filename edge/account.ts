// AccountDO: one account. It holds the hashes of its keys, what each Idempotency-Key stood for, and the ledger, all in one SQLite.
import { DurableObject } from 'cloudflare:workers'
import { timingSafeEqual } from 'hono/utils/buffer'
import type { Env } from './env.ts'
import type { Credential } from './keys.ts'
import { log } from './log.ts'

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, secret_hash TEXT NOT NULL, label TEXT NOT NULL, created INTEGER NOT NULL, revoked INTEGER) STRICT;
  CREATE TABLE IF NOT EXISTS ledger (
    job TEXT PRIMARY KEY, key_id TEXT NOT NULL, amount INTEGER NOT NULL, state TEXT NOT NULL, reserved INTEGER NOT NULL,
    settled INTEGER) STRICT;
  CREATE TABLE IF NOT EXISTS idempotency (
    name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, job TEXT NOT NULL, created INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS ledger_by_reserved ON ledger (reserved);
  CREATE INDEX IF NOT EXISTS ledger_open ON ledger (reserved) WHERE state = 'reserved';
  CREATE INDEX IF NOT EXISTS idempotency_by_job ON idempotency (job);
  CREATE INDEX IF NOT EXISTS idempotency_by_created ON idempotency (created)`

/** A reservation this old without a job behind it was left by a worker that died between the two. */
const ORPHAN_MS = 15 * 60_000
/** How long an Idempotency-Key is remembered. */
const IDEMPOTENCY_MS = 24 * 60 * 60_000

export type KeyInfo = { id: string; label: string; created: number; revoked: number | null }
export type Outcome = 'captured' | 'released'
/** Amounts are micro-dollars. */
export type LedgerEntry = {
  job: string
  key_id: string
  amount: number
  state: 'reserved' | Outcome
  reserved: number
  settled: number | null
}
export type AdmissionRequest = {
  credential: Credential
  job: string
  price: number
  idempotency: { name: string; fingerprint: string } | null
}
/** `repeated`: the Idempotency-Key was used before with the same request, for `job`, whose price is `reserved` or settled. */
export type Admission =
  | { kind: 'admitted' }
  | { kind: 'unauthorised' }
  | { kind: 'repeated'; job: string; reserved: boolean }
  | { kind: 'mismatch' }

export class AccountDO extends DurableObject<Env> {
  readonly #sql: SqlStorage

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#sql = ctx.storage.sql
    this.#sql.exec(SCHEMA)
  }

  addKey({ keyId, secretHash }: Credential, label: string): void {
    this.#sql.exec(
      'INSERT INTO keys (id, secret_hash, label, created) VALUES (?, ?, ?, ?)',
      keyId,
      secretHash,
      label,
      Date.now(),
    )
  }

  keys(): KeyInfo[] {
    return this.#sql.exec<KeyInfo>('SELECT id, label, created, revoked FROM keys ORDER BY created, id').toArray()
  }

  /** Ends a key at once and for good; false when there is none of that id. */
  revokeKey(id: string): boolean {
    return this.#sql.exec('UPDATE keys SET revoked = coalesce(revoked, ?) WHERE id = ?', Date.now(), id).rowsWritten > 0
  }

  /** Whether the account holds this key and has not revoked it. */
  async authenticate({ keyId, secretHash }: Credential): Promise<boolean> {
    const [row] = this.#sql.exec<{ secret_hash: string }>('SELECT secret_hash FROM keys WHERE id = ?', keyId)
    return row !== undefined && (await timingSafeEqual(row.secret_hash, secretHash)) && this.#isActive(keyId)
  }

  /** Lets a job in: checks the key, the Idempotency-Key, and reserves the price, all or nothing. */
  async admit({ credential, job, price, idempotency }: AdmissionRequest): Promise<Admission> {
    if (!(await this.authenticate(credential))) return { kind: 'unauthorised' }
    await this.#wakeWithin(ORPHAN_MS)
    return this.ctx.storage.transactionSync(() => {
      if (!this.#isActive(credential.keyId)) return { kind: 'unauthorised' }
      const before = idempotency && this.#repeated(idempotency)
      if (before) return before
      this.#reserve(job, credential.keyId, price)
      if (idempotency) this.#remember(idempotency, job)
      return { kind: 'admitted' }
    })
  }

  /** Captures or releases a job's reservation. The first settlement stands; a repeat changes nothing and tells what stands. */
  settle(job: string, outcome: Outcome): LedgerEntry | null {
    this.#sql.exec(
      "UPDATE ledger SET state = ?, settled = ? WHERE job = ? AND state = 'reserved'",
      outcome,
      Date.now(),
      job,
    )
    const entry = this.entry(job)
    if (entry?.state !== outcome)
      log('error', 'a settlement does not agree with the ledger', { job, outcome, stands: entry?.state ?? null })
    return entry
  }

  /** Releases a job that no GPU took, and its Idempotency-Key with it, which is then free for another job. */
  releaseAndForget(job: string): LedgerEntry | null {
    return this.ctx.storage.transactionSync(() => {
      this.#sql.exec('DELETE FROM idempotency WHERE job = ?', job)
      return this.settle(job, 'released')
    })
  }

  entry(job: string): LedgerEntry | null {
    return this.#sql.exec<LedgerEntry>('SELECT * FROM ledger WHERE job = ?', job).toArray()[0] ?? null
  }

  /** Ids of the newest jobs, newest first. */
  recentJobs(limit: number): string[] {
    const rows = this.#sql.exec<{ job: string }>(
      'SELECT job FROM ledger ORDER BY reserved DESC, rowid DESC LIMIT ?',
      limit,
    )
    return rows.toArray().map(({ job }) => job)
  }

  /** Sums of the ledger in micro-dollars. */
  totals(): { reserved: number; captured: number } {
    const sum = (state: LedgerEntry['state']) =>
      this.#sql
        .exec<{ total: number }>('SELECT coalesce(sum(amount), 0) AS total FROM ledger WHERE state = ?', state)
        .one().total
    return { reserved: sum('reserved'), captured: sum('captured') }
  }

  /**
   * Releases reservations that no job stands behind (a job that exists settles by itself, by its own watchdog), and forgets
   * Idempotency-Keys whose time is over.
   */
  override async alarm(): Promise<void> {
    const before = Date.now() - ORPHAN_MS
    for (const { job } of this.#openBefore(before)) {
      const absent = (await this.env.JOB.getByName(job).view()) === null
      // While we asked, a repeated request may have taken the reservation up.
      if (absent && (this.entry(job)?.reserved ?? Infinity) <= before) this.releaseAndForget(job)
    }
    this.#sql.exec('DELETE FROM idempotency WHERE created <= ?', Date.now() - IDEMPOTENCY_MS)
    if (this.#openBefore(Infinity).length > 0) return this.#wakeWithin(ORPHAN_MS)
    const { oldest } = this.#sql.exec<{ oldest: number | null }>('SELECT min(created) AS oldest FROM idempotency').one()
    if (oldest !== null) await this.#wakeWithin(oldest + IDEMPOTENCY_MS - Date.now())
  }

  /** Sets the alarm unless it comes sooner anyway. */
  async #wakeWithin(ms: number): Promise<void> {
    const alarm = await this.ctx.storage.getAlarm()
    const at = Date.now() + ms
    if (alarm === null || alarm > at) await this.ctx.storage.setAlarm(at)
  }

  /** Unsettled reservations made at `time` or before. */
  #openBefore(time: number): { job: string }[] {
    return this.#sql
      .exec<{ job: string }>("SELECT job FROM ledger WHERE state = 'reserved' AND reserved <= ?", time)
      .toArray()
  }

  #isActive(keyId: string): boolean {
    return this.#sql.exec('SELECT 1 FROM keys WHERE id = ? AND revoked IS NULL', keyId).toArray().length > 0
  }

  #repeated({ name, fingerprint }: { name: string; fingerprint: string }): Admission | null {
    const [row] = this.#sql.exec<{ fingerprint: string; job: string }>(
      'SELECT fingerprint, job FROM idempotency WHERE name = ?',
      name,
    )
    if (!row) return null
    if (row.fingerprint !== fingerprint) return { kind: 'mismatch' }
    // Made new, so that the alarm does not release as an orphan what the caller is about to create a job for.
    const renewed = this.#sql.exec(
      "UPDATE ledger SET reserved = ? WHERE job = ? AND state = 'reserved'",
      Date.now(),
      row.job,
    )
    return { kind: 'repeated', job: row.job, reserved: renewed.rowsWritten > 0 }
  }

  #remember({ name, fingerprint }: { name: string; fingerprint: string }, job: string): void {
    this.#sql.exec('INSERT INTO idempotency VALUES (?, ?, ?, ?)', name, fingerprint, job, Date.now())
  }

  #reserve(job: string, keyId: string, amount: number): void {
    this.#sql.exec("INSERT INTO ledger VALUES (?, ?, ?, 'reserved', ?, NULL)", job, keyId, amount, Date.now())
  }
}
