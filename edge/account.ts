// AccountDO: one account. It holds its keys, what each Idempotency-Key stood for, the meters of its limits and the ledger, in one SQLite.
import { DurableObject } from 'cloudflare:workers'
import {
  allows,
  authenticate,
  endKey,
  findKey,
  holdsLinks,
  KEYS_SCHEMA,
  type KeyChange,
  type KeyInfo,
  type ListedKey,
  listKeys,
  migrateKeys,
} from './account-keys.ts'
import * as ledger from './account-ledger.ts'
import { exportBatch, nextExport, OUTBOX_MS, OUTBOX_SCHEMA, takeOut } from './account-outbox.ts'
import {
  type AccountSettings,
  SETTINGS_SCHEMA,
  type SettingsChange,
  saveSettings,
  settingsOf,
} from './account-settings.ts'
import {
  type Admission,
  type AdmissionRequest,
  decide,
  forget,
  forgetName,
  IDEMPOTENCY_SCHEMA,
  nextExpiry,
  prune,
} from './admission.ts'
import type { Env } from './env.ts'
import { changeKey, createKey, type KeyOutcome, replaceKey } from './key-management.ts'
import type { Credential, KeyCredential, Scope } from './keys.ts'
import { log } from './log.ts'
import { type Recovery, readRecovery } from './recovery.ts'

export type Authentication = { kind: 'authenticated'; key: KeyInfo } | { kind: 'unauthorised' } | { kind: 'forbidden' }
export type AccountView = ledger.Sums & { balance: number; settings: AccountSettings }

export class AccountDO extends DurableObject<Env> {
  readonly #sql: SqlStorage
  readonly #recovery: Recovery

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#sql = ctx.storage.sql
    this.#recovery = readRecovery(env)
    this.#sql.exec(KEYS_SCHEMA + ledger.LEDGER_SCHEMA + OUTBOX_SCHEMA + SETTINGS_SCHEMA + IDEMPOTENCY_SCHEMA)
    migrateKeys(this.#sql)
  }

  /** Makes a key, for the key `by` of scope `admin` or for the operator. */
  addKey(credential: KeyCredential, options: KeyChange = {}, by: string | null = null): KeyOutcome {
    return this.ctx.storage.transactionSync(() => createKey(this.#sql, credential, options, by))
  }

  keys(): ListedKey[] {
    return listKeys(this.#sql)
  }

  /** A key and what its line has used; null when there is none of that id. */
  key(id: string): (KeyInfo & { captured: number; reserved: number; open: number }) | null {
    const key = findKey(this.#sql, id)
    if (!key) return null
    const { captured, reserved, open } = ledger.meterOf(this.#sql, `key:${key.lineage}`)
    return { ...key, captured, reserved, open }
  }

  changeKey(id: string, change: KeyChange, by: string | null = null): KeyOutcome {
    return this.ctx.storage.transactionSync(() => changeKey(this.#sql, id, change, by))
  }

  /** Adds `next` in the place of an active key, which holds until `until` (Unix milliseconds) at most. */
  rotateKey(id: string, next: KeyCredential, until: number, by: string | null = null): KeyOutcome {
    return this.ctx.storage.transactionSync(() => replaceKey(this.#sql, id, next, until, by))
  }

  /** Whether links signed for a key hold. */
  keyHoldsLinks(id: string): boolean {
    return holdsLinks(this.#sql, id)
  }

  /** Ends a key and its browser tokens at once and for good; false when there is none of that id. */
  revokeKey(id: string): boolean {
    return endKey(this.#sql, id)
  }

  /** Whether the credential is good here and now, and for `scope` when one is given. */
  async authenticate(credential: Credential, scope?: Scope): Promise<Authentication> {
    const key = await authenticate(this.#sql, credential)
    if (!key) return { kind: 'unauthorised' }
    return scope && !allows(key, credential, scope) ? { kind: 'forbidden' } : { kind: 'authenticated', key }
  }

  /** Lets a job in: key, scope, Idempotency-Key, rates, concurrency and money, and reserves the price, all or nothing. */
  async admit(request: AdmissionRequest): Promise<Admission> {
    const key = await authenticate(this.#sql, request.credential)
    if (!key) return { kind: 'unauthorised' }
    if (!allows(key, request.credential, 'generate')) return { kind: 'forbidden', scope: 'generate' }
    await this.#wakeWithin(this.#recovery.reservationMs)
    return this.ctx.storage.transactionSync(() => decide(this.#sql, this.#settings(), request))
  }

  /** Captures or releases a job's reservation. The first settlement stands; a repeat changes nothing and tells what stands. */
  async settle(job: string, settlement: ledger.Settlement): Promise<ledger.LedgerEntry | null> {
    await this.#wakeWithin(OUTBOX_MS)
    this.ctx.storage.transactionSync(() => {
      ledger.settleOnce(this.#sql, job, settlement)
      if (settlement.forget) forgetName(this.#sql, job)
    })
    const entry = this.entry(job)
    const { outcome } = settlement
    if (entry?.state !== outcome)
      log('error', 'a settlement does not agree with the ledger', { job, outcome, stands: entry?.state ?? null })
    return entry
  }

  /** Frees the Idempotency-Key and the id of a reservation that was released without a job. False when the price is held. */
  forget(job: string): boolean {
    return this.ctx.storage.transactionSync(() => forget(this.#sql, job))
  }

  entry(job: string): ledger.LedgerEntry | null {
    return ledger.entryOf(this.#sql, job)
  }

  /** Ids of jobs, newest first: all, or those older than the job `after`. Null when that one is not known. */
  recentJobs(limit: number, after: string | null = null): string[] | null {
    return ledger.jobsBefore(this.#sql, limit, after)
  }

  /** Open reservations and captures in micro-dollars. */
  totals(): { reserved: number; captured: number } {
    const { reserved, captured } = ledger.sumsOf(this.#sql)
    return { reserved, captured }
  }

  /** The sums as they are kept, and as the rows add up. They are equal, always. */
  audit(): { kept: ledger.Sums; summed: ledger.Sums } {
    return { kept: ledger.sumsOf(this.#sql), summed: ledger.audit(this.#sql) }
  }

  usage(from: string, to: string): ledger.UsageRow[] {
    return ledger.usageBetween(this.#sql, from, to)
  }

  /** Ends the export of jobs that have arrived where usage is kept. */
  exported(jobs: readonly string[]): void {
    takeOut(this.#sql, jobs)
  }

  /** Adds credit in micro-dollars, once for an id: a repeat changes nothing and tells what stands. */
  credit(id: string, amount: number, note: string): { amount: number; note: string } {
    return ledger.addCredit(this.#sql, id, amount, note)
  }

  view(): AccountView {
    const sums = ledger.sumsOf(this.#sql)
    return { ...sums, balance: sums.credited - sums.captured, settings: this.#settings() }
  }

  /** Changes what is given of the account's settings. */
  configure(change: SettingsChange): AccountSettings {
    const settings = this.#settings()
    return saveSettings(this.#sql, { ...settings, ...change, limits: { ...settings.limits, ...change.limits } })
  }

  /** Releases reservations that no job stands behind, sends settled rows to the export, and forgets what has expired. */
  override async alarm(): Promise<void> {
    prune(this.#sql)
    try {
      await this.#releaseOrphans()
      const sender = { account: this.ctx.id.name!, ...this.#settings() }
      await exportBatch(this.#sql, this.env, sender, this.#recovery.usageMs)
    } catch (cause) {
      log('error', 'an account could not tidy up yet', { account: this.ctx.id.name, cause })
    }
    const due = nextExport(this.#sql)
    if (due !== null) await this.#wakeWithin(Math.max(OUTBOX_MS, due - Date.now()))
    if (ledger.sumsOf(this.#sql).open > 0) await this.#wakeWithin(this.#recovery.reservationMs)
    const expiry = nextExpiry(this.#sql)
    if (expiry !== null) await this.#wakeWithin(expiry - Date.now())
  }

  /** A job that exists settles by itself, by its own watchdog. */
  async #releaseOrphans(): Promise<void> {
    const before = Date.now() - this.#recovery.reservationMs
    for (const job of ledger.openBefore(this.#sql, before)) {
      if ((await this.env.JOB.getByName(job).view()) === null) this.#releaseOrphan(job, before)
    }
  }

  #releaseOrphan(job: string, before: number): void {
    this.ctx.storage.transactionSync(() => {
      // While we asked for its job, a repeated request may have taken the reservation up.
      if ((this.entry(job)?.reserved ?? Infinity) > before) return
      if (ledger.settleOnce(this.#sql, job, { outcome: 'released' })) forget(this.#sql, job)
    })
  }

  #settings(): AccountSettings {
    return settingsOf(this.#sql, this.env.OCTET_ACCOUNT_LIMITS)
  }

  async #wakeWithin(milliseconds: number): Promise<void> {
    const alarm = await this.ctx.storage.getAlarm()
    const wanted = Date.now() + milliseconds
    if (alarm === null || alarm > wanted) await this.ctx.storage.setAlarm(wanted)
  }
}
