// AccountDO: one account's keys, Idempotency-Keys, limit meters and ledger, in one SQLite database.

import { DurableObject } from 'cloudflare:workers'
import type { Credential, KeyCredential } from '../auth/keys.ts'
import { hasScope } from '../auth/keys.ts'
import type { Scope } from '../auth/scopes.ts'
import type { Recovery } from '../config/recovery.ts'
import { configOf } from '../config.ts'
import { ACCOUNT_DELETED } from '../http/errors.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { log } from '../platform/log.ts'
import type { LedgerEntry } from '../usage/record.ts'
import {
  type Admission,
  type AdmissionRequest,
  type Announced,
  decide,
  dropOrphan,
  findNextExpiry,
  type Permission,
  permit,
  prune,
} from './admission.ts'
import { beginDeletion, continueDeletion, type Deletion, deletionOf, findNextDeletion } from './deletion.ts'
import { keepUndelivered } from './equal-jobs.ts'
import { type ExportPage, type ExportSection, exportRows } from './export.ts'
import type { JobSpec, JobSummary } from './job-spec.ts'
import type { KeyChange, KeyInfo, ListedKey } from './keys/key-info.ts'
import { changeKey, createKey, isRootKey, type KeyOutcome, replaceKey, revokeKey } from './keys/key-management.ts'
import { areLinksValid, authenticate, chooseModel, findKey, listKeys, readChosenModel } from './keys/key-table.ts'
import * as ledger from './ledger.ts'
import { type AccountSettings, type SettingsChange, saveSettings, settingsOf } from './settings.ts'
import { createAccountTables } from './tables.ts'
import { OUTBOX_MS, openUsageOutbox, removeFromOutbox } from './usage-outbox.ts'

export type Authentication = { kind: 'authenticated'; key: KeyInfo } | { kind: 'unauthorized' } | { kind: 'forbidden' }
export type AccountView = ledger.Sums & { balance: number; settings: AccountSettings; deletion: Deletion | null }

/** Time limit of the usage export in one alarm. The next alarm sends the remaining rows. */
const EXPORT_MS = 30_000
/** The delay before a deletion continues after an interrupted alarm. */
const DELETION_MS = 60_000

export class AccountDO extends DurableObject<Env> {
  readonly #sql: SqlStorage
  readonly #recovery: Recovery
  readonly #outbox: ReturnType<typeof openUsageOutbox>
  /** Old reservations whose jobs exist. They are not checked again, because a job settles itself. */
  readonly #claimed = new Set<string>()

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#sql = ctx.storage.sql
    this.#recovery = configOf(env).recovery
    const createSender = () => ({ account: ctx.id.name!, ...this.#settings() })
    this.#outbox = openUsageOutbox(this.#sql, env, createSender, this.#recovery.usageMs)
    ctx.storage.transactionSync(() => createAccountTables(this.#sql))
  }

  /** Creates a key on behalf of the key `by`, which has scope `admin`, or of the operator. */
  addKey(credential: KeyCredential, options: KeyChange = {}, by: string | null = null): KeyOutcome {
    this.#refuseDeleted()
    return this.ctx.storage.transactionSync(() => createKey(this.#sql, credential, options, by))
  }

  keys(): ListedKey[] {
    return listKeys(this.#sql)
  }

  /** A key with the usage of its lineage; null for an unknown id. */
  key(id: string): (KeyInfo & { captured: number; reserved: number; open: number }) | null {
    const key = findKey(this.#sql, id)
    if (!key) return null
    const { captured, reserved, open } = ledger.meterOf(this.#sql, `key:${key.lineage}`)
    return { ...key, captured, reserved, open }
  }

  changeKey(id: string, change: KeyChange, by: string | null = null): KeyOutcome {
    return this.ctx.storage.transactionSync(() => changeKey(this.#sql, id, change, by))
  }

  /** Replaces an active key with `next`. The old key stays valid until `until` (Unix milliseconds) at most. */
  rotateKey(id: string, next: KeyCredential, until: number, by: string | null = null): KeyOutcome {
    return this.ctx.storage.transactionSync(() => replaceKey(this.#sql, id, next, until, by))
  }

  /** Whether links signed for a key are valid. */
  areLinksValid(id: string): boolean {
    return areLinksValid(this.#sql, id)
  }

  /** Revokes a key and its browser tokens immediately and permanently, on behalf of the key `by` or of the operator. */
  revokeKey(id: string, by: string | null = null): KeyOutcome {
    return this.ctx.storage.transactionSync(() => revokeKey(this.#sql, id, by))
  }

  /** The model for a key's requests without the field `model`; null if none was chosen. */
  chosenModel(keyId: string): string | null {
    return readChosenModel(this.#sql, keyId)
  }

  chooseModel(keyId: string, model: string | null): void {
    chooseModel(this.#sql, keyId, model)
  }

  /** Whether a key may delete and export the whole account. */
  isRootKey(id: string): boolean {
    return isRootKey(this.#sql, id)
  }

  /** Whether the credential is currently valid, and for `scope` if given. */
  async authenticate(credential: Credential, scope?: Scope): Promise<Authentication> {
    const key = await authenticate(this.#sql, credential)
    if (!key) return { kind: 'unauthorized' }
    return scope && !hasScope(key, credential, scope) ? { kind: 'forbidden' } : { kind: 'authenticated', key }
  }

  /** Admits a job: checks key, scope, names, rates, concurrency and balance, and reserves the price, in one transaction. */
  async admit(request: AdmissionRequest): Promise<Admission> {
    const key = await authenticate(this.#sql, request.credential)
    if (!key) return { kind: 'unauthorized' }
    if (!hasScope(key, request.credential, 'generate')) return { kind: 'forbidden', scope: 'generate' }
    await this.#wakeWithin(this.#recovery.reservationMs)
    return this.ctx.storage.transactionSync(() => decide(this.#sql, this.#settings(), request))
  }

  /** Checks and counts a request before work that precedes its admission; see admission.ts. A repeated call counts again. */
  async permit(request: Announced): Promise<Permission> {
    const key = await authenticate(this.#sql, request.credential)
    if (!key) return { kind: 'unauthorized' }
    if (!hasScope(key, request.credential, 'generate')) return { kind: 'forbidden', scope: 'generate' }
    return this.ctx.storage.transactionSync(() => permit(this.#sql, this.#settings(), request))
  }

  /** Keeps a job for a retry by its caller, who disconnected or whose response was aborted. */
  keepUndelivered(job: string): void {
    this.ctx.storage.transactionSync(() => keepUndelivered(this.#sql, job))
  }

  /** Captures or releases a job's reservation. The first settlement stands; a repeat changes nothing and returns the row. */
  async settle(job: string, settlement: ledger.Settlement): Promise<LedgerEntry | null> {
    await this.#wakeWithin(OUTBOX_MS)
    this.ctx.storage.transactionSync(() => ledger.settleOnce(this.#sql, job, settlement))
    this.#claimed.delete(job)
    const entry = this.entry(job)
    const { outcome } = settlement
    if (entry?.state !== outcome)
      log('error', 'a settlement does not agree with the ledger', { job, outcome, state: entry?.state ?? null })
    return entry
  }

  /** Replaces the summary of a settled job, after some of its images were deleted. */
  updateSummary(job: string, summary: JobSummary): void {
    ledger.saveSummary(this.#sql, job, summary)
  }

  /** Deletes a job's row; its charge stays in the sums. False while the row is not settled or not exported. */
  forgetJob(job: string): boolean {
    return this.ctx.storage.transactionSync(() => ledger.foldRow(this.#sql, job))
  }

  /** The id of the job with this name; null if there is none. */
  findJobByName(name: string): string | null {
    return ledger.findJobByName(this.#sql, name)
  }

  entry(job: string): LedgerEntry | null {
    return ledger.entryOf(this.#sql, job)
  }

  /** Jobs, newest first: all, or those admitted before the job `after`. Null if `after` is unknown. */
  recentJobs(limit: number, after: string | null = null): (JobSummary | JobSpec)[] | null {
    return ledger.selectJobsBefore(this.#sql, limit, after)
  }

  /** Open reservations and captures in micro-dollars. */
  totals(): { reserved: number; captured: number } {
    const { reserved, captured } = ledger.sumsOf(this.#sql)
    return { reserved, captured }
  }

  /** The stored sums, and the sums computed from the rows. They must be equal. */
  audit(): { kept: ledger.Sums; summed: ledger.Sums } {
    return { kept: ledger.sumsOf(this.#sql), summed: ledger.audit(this.#sql) }
  }

  usage(from: string, to: string): ledger.UsageRow[] {
    return ledger.selectUsageBetween(this.#sql, from, to)
  }

  /** Removes jobs from the usage export after their rows were stored in D1. */
  exported(jobs: readonly string[]): void {
    removeFromOutbox(this.#sql, jobs)
  }

  /** Adds credit in micro-dollars once per id. A repeat changes nothing and returns the original credit. */
  credit(id: string, amount: number, note: string): { amount: number; note: string } {
    this.#refuseDeleted()
    return ledger.addCredit(this.#sql, id, amount, note)
  }

  view(): AccountView {
    const sums = ledger.sumsOf(this.#sql)
    const deletion = deletionOf(this.#sql)
    return { ...sums, balance: sums.credited - sums.captured, settings: this.#settings(), deletion }
  }

  /** Changes the given settings and keeps the others. */
  configure(change: SettingsChange): AccountSettings {
    this.#refuseDeleted()
    const settings = this.#settings()
    return saveSettings(this.#sql, { ...settings, ...change, limits: { ...settings.limits, ...change.limits } })
  }

  /** A page of the account's rows for its owner, without secrets; see export.ts. */
  exportRows(section: ExportSection, after: string | null): ExportPage {
    this.#refuseDeleted()
    return exportRows(this.#sql, section, after)
  }

  /**
   * Revokes all keys immediately and starts the deletion of the account's data, which the alarm completes. A repeat changes nothing. Null for
   * an unknown account.
   */
  async deleteAccount(): Promise<Deletion | null> {
    const deletion = this.ctx.storage.transactionSync(() => beginDeletion(this.#sql))
    if (deletion?.completed === null) await this.#wakeWithin(0)
    return deletion
  }

  /** Releases reservations without a job, exports settled rows, and deletes expired rows. */
  override async alarm(): Promise<void> {
    if ((findNextDeletion(this.#sql) ?? Number.POSITIVE_INFINITY) <= Date.now()) await this.#wakeWithin(DELETION_MS)
    prune(this.#sql)
    this.ctx.storage.transactionSync(() => ledger.foldOldUsage(this.#sql))
    await this.#releaseOrphans()
    await this.#outbox.run(Date.now() + EXPORT_MS)
    await this.#continueDeletion()
    const next = this.#outbox.nextRun()
    if (next !== null) await this.#wakeWithin(Math.max(OUTBOX_MS, next - Date.now()))
    if (ledger.sumsOf(this.#sql).open > 0) await this.#wakeWithin(this.#recovery.reservationMs)
    const expiry = findNextExpiry(this.#sql)
    if (expiry !== null) await this.#wakeWithin(expiry - Date.now())
  }

  /** Releases old reservations without a job. Existing jobs settle themselves. */
  async #releaseOrphans(): Promise<void> {
    const before = Date.now() - this.#recovery.reservationMs
    for (const job of ledger.openBefore(this.#sql, before)) {
      if (this.#claimed.has(job)) continue
      try {
        if (await objectOf(this.env.JOB, job).preclude(before)) this.#releaseOrphan(job, before)
        else this.#claimed.add(job)
      } catch (cause) {
        log('error', 'an old reservation could not be checked', { job, cause })
      }
    }
  }

  #releaseOrphan(job: string, before: number): void {
    this.ctx.storage.transactionSync(() => {
      // A repeated request may have renewed the reservation during the call to its job.
      if ((ledger.reservationOf(this.#sql, job)?.reservedAt ?? Number.POSITIVE_INFINITY) <= before)
        dropOrphan(this.#sql, job)
    })
  }

  async #continueDeletion(): Promise<void> {
    const transact = (change: () => void) => this.ctx.storage.transactionSync(change)
    await continueDeletion({ account: this.ctx.id.name!, sql: this.#sql, env: this.env, transact })
    const due = findNextDeletion(this.#sql)
    if (due !== null) await this.#wakeWithin(Math.max(0, due - Date.now()))
  }

  /** Throws if the account was deleted. */
  #refuseDeleted(): void {
    if (deletionOf(this.#sql)) throw new Error(ACCOUNT_DELETED)
  }

  #settings(): AccountSettings {
    return settingsOf(this.#sql, () => configOf(this.env).accountLimits)
  }

  async #wakeWithin(milliseconds: number): Promise<void> {
    const alarm = await this.ctx.storage.getAlarm()
    const due = Date.now() + milliseconds
    if (alarm === null || alarm > due) await this.ctx.storage.setAlarm(due)
  }
}
