// Admission of jobs to an account: one SQLite transaction that reserves the price or changes nothing.

import type { Credential } from '../auth/keys.ts'
import type { Scope } from '../auth/scopes.ts'
import { UNLIMITED } from '../config/limits.ts'
import { DAY_MS } from '../platform/units.ts'
import { FULL_BYTES } from '../results/retention.ts'
import { findEqualJob, hasFindableJob, takeUndelivered } from './equal-jobs.ts'
import type { JobSpec } from './job-spec.ts'
import type { KeyInfo } from './keys/key-info.ts'
import { creatorsOf, findKey, isActive } from './keys/key-table.ts'
import {
  dropReservation,
  findJobByName,
  findReusableJob,
  meterOf,
  type Reservation,
  renew,
  reservationOf,
  reserve,
  sumsOf,
  takeRateTokens,
} from './ledger.ts'
import { computeRateState, type MeteredHolder, type Refusal, rateRefusalOf, refusalOf } from './meter.ts'
import type { RateState } from './rate-limit-headers.ts'
import type { AccountSettings } from './settings.ts'

export const IDEMPOTENCY_SCHEMA = `
  CREATE TABLE IF NOT EXISTS idempotency (
    name TEXT PRIMARY KEY, job TEXT NOT NULL, created INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS idempotency_by_time ON idempotency (created);
  CREATE INDEX IF NOT EXISTS idempotency_by_job ON idempotency (job);`

/** The lifetime of an Idempotency-Key. */
export const IDEMPOTENCY_MS = DAY_MS

/** Browser tokens expire within an hour, so their meters are obsolete after two. */
const TOKEN_METER_MS = 2 * 3600_000
const IDLE_TOKEN = "id >= 'token:' AND id < 'token;' AND open = 0"

export type AdmissionRequest = {
  credential: Credential
  spec: JobSpec
  idempotencyKey: string | null
  /** Possibly an SDK's retry without an Idempotency-Key: matches an open job of an equal request. */
  retried: boolean
  /** Whether a request without an Idempotency-Key matches an open job of an equal request of the last minute. */
  joins?: boolean
  /** Whether an earlier job with equal images may be returned, free of charge. */
  reuse: boolean
  /** Whether the day's GPU time is used up, so that no new job can start. */
  exhausted?: boolean
  /** Whether `permit` has counted the request. */
  isCounted?: boolean
}
/** A request whose job is not specified yet. */
export type Announced = Omit<AdmissionRequest, 'spec' | 'reuse' | 'exhausted' | 'isCounted'> &
  Pick<JobSpec, 'name' | 'price'>
/** Whether the worker may do the work that precedes an admission. */
export type Permission =
  | { kind: 'permitted' }
  | { kind: 'unauthorized' }
  | { kind: 'forbidden'; scope: Scope }
  | (Refusal & { rates: RateState[] })
/** `repeated`: the reservation of an earlier, equal request. `reused`: an earlier job with equal images. */
export type Admission =
  | { kind: 'admitted'; reservation: Reservation; rates: RateState[] }
  | { kind: 'repeated'; reservation: Reservation }
  | { kind: 'reused'; job: string; rates: RateState[] }
  | { kind: 'unauthorized' }
  | { kind: 'forbidden'; scope: Scope }
  | { kind: 'mismatch'; by: 'name' | 'Idempotency-Key' }
  | { kind: 'full' }
  | { kind: 'exhausted'; rates: RateState[] }
  | (Refusal & { rates: RateState[] })

/**
 * Admits a request with a verified credential and reserves its price, or refuses it. Must run in a transaction.
 */
export function decide(sql: SqlStorage, settings: AccountSettings, request: AdmissionRequest): Admission {
  const { credential, idempotencyKey, isCounted = false } = request
  const spec = applySettings(request.spec, settings)
  const key = findKey(sql, credential.keyId)
  if (!key || !isActive(key)) return { kind: 'unauthorized' }
  const earlier = findEarlier(sql, { ...request, spec })
  if (earlier && 'answer' in earlier) return earlier.answer
  if (sql.databaseSize > FULL_BYTES) return { kind: 'full' }
  const now = Date.now()
  const metered = metersOf(sql, settings, key, credential)
  const refusal =
    checkBalance(sql, settings, spec.price) ??
    findRefusal(metered, (each) => refusalOf(each, spec.price, now, isCounted))
  if (refusal) return { ...refusal, rates: ratesOf(metered, now) }
  const reused = request.reuse ? findReusableJob(sql, spec.digest) : null
  if (reused) {
    if (!isCounted) takeRateTokens(sql, metered)
    return { kind: 'reused', job: reused, rates: ratesOf(metersOf(sql, settings, key, credential), now) }
  }
  if (request.exhausted) return { kind: 'exhausted', rates: ratesOf(metered, now) }
  if (earlier) releaseNames(sql, earlier.failed)
  reserve(sql, spec, metered, isCounted)
  if (idempotencyKey !== null) rememberKey(sql, createScopedKey(spec, idempotencyKey), spec, now)
  const { id: job, fingerprint, price } = spec
  const reservation = { job, fingerprint, price, reservedAt: now, spec }
  return { kind: 'admitted', reservation, rates: ratesOf(metersOf(sql, settings, key, credential), now) }
}

/**
 * Counts a request toward the rate limits before work that precedes its admission, such as the fetch of an image. Refuses what `decide` would
 * refuse, except for the price of a possible repeat, which is free. Must run in a transaction.
 */
export function permit(sql: SqlStorage, settings: AccountSettings, request: Announced): Permission {
  const { credential, price } = request
  const key = findKey(sql, credential.keyId)
  if (!key || !isActive(key)) return { kind: 'unauthorized' }
  const now = Date.now()
  const metered = metersOf(sql, settings, key, credential)
  const refusal = mayRepeat(sql, request)
    ? findRefusal(metered, (each) => rateRefusalOf(each, now))
    : (checkBalance(sql, settings, price) ?? findRefusal(metered, (each) => refusalOf(each, price, now)))
  if (refusal) return { ...refusal, rates: ratesOf(metered, now) }
  takeRateTokens(sql, metered)
  return { kind: 'permitted' }
}

/** Whether the request may repeat an earlier one, as far as this is known without its specification. */
function mayRepeat(sql: SqlStorage, { credential, name, idempotencyKey, retried, joins }: Announced): boolean {
  const token = 'token' in credential ? credential.token.id : null
  if (idempotencyKey !== null && jobOfKey(sql, createScopedKey({ token }, idempotencyKey)) !== null) return true
  if (name !== null) return findJobByName(sql, name) !== null
  return idempotencyKey === null && (retried || joins === true) && hasFindableJob(sql, { ...credential, token })
}

/** The specification with the account's settings. Files with and without prompts differ, and so do their digests. */
function applySettings(spec: JobSpec, { retention_days, prompt_metadata }: AccountSettings): JobSpec {
  const kept = { ...spec, retentionDays: retention_days }
  if (prompt_metadata) return kept
  return { ...kept, request: { ...spec.request, prompt_metadata: false }, digest: `${spec.digest} without prompts` }
}

const ratesOf = (metered: MeteredHolder[], now: number) => metered.flatMap((each) => computeRateState(each, now))

function metersOf(sql: SqlStorage, settings: AccountSettings, key: KeyInfo, credential: Credential): MeteredHolder[] {
  const metered: MeteredHolder[] = [
    { holder: 'account', limits: settings.limits, meter: meterOf(sql, 'account') },
    { holder: 'key', limits: key.limits, meter: meterOf(sql, `key:${key.lineage}`) },
    ...creatorsOf(sql, key).map(({ lineage, limits }) => ({
      holder: 'creator' as const,
      limits,
      meter: meterOf(sql, `key:${lineage}`),
    })),
  ]
  if (!('token' in credential)) return metered
  const { id, budget } = credential.token
  const limits = { ...UNLIMITED, total_microdollars: budget }
  return [...metered, { holder: 'token', limits, meter: meterOf(sql, `token:${key.id}:${id}`) }]
}

function findRefusal(metered: MeteredHolder[], refusalFor: (each: MeteredHolder) => Refusal | null): Refusal | null {
  for (const each of metered) {
    const refusal = refusalFor(each)
    if (refusal) return refusal
  }
  return null
}

/** Refuses a price above the available balance of a prepaid account: its balance less open reservations. */
function checkBalance(sql: SqlStorage, { prepaid }: AccountSettings, price: number): Refusal | null {
  if (!prepaid) return null
  const { credited, captured, reserved } = sumsOf(sql)
  const available = Math.max(0, credited - captured - reserved)
  return price > available ? { kind: 'over_budget', by: 'balance', holder: 'account', available, price } : null
}

type EarlierRequest = { answer: Admission } | { failed: string } | null

/**
 * The result of an earlier request with the same Idempotency-Key, name or id, or of an equal open request; or the failed job that this
 * request replaces. Null for a new request.
 */
function findEarlier(sql: SqlStorage, { spec, idempotencyKey, retried, joins }: AdmissionRequest): EarlierRequest {
  const keyed = idempotencyKey === null ? null : jobOfKey(sql, createScopedKey(spec, idempotencyKey))
  const named = spec.name === null ? null : findJobByName(sql, spec.name)
  if (keyed !== null && spec.name !== null && keyed !== named)
    return { answer: { kind: 'mismatch', by: 'Idempotency-Key' } }
  // The reply to an admission may be lost. The worker then repeats the call with the same id.
  const isEqualEnough = (retried || joins) && idempotencyKey === null && spec.name === null
  const equal = isEqualEnough ? findEqualJob(sql, spec, { recent: !retried }) : null
  const job = keyed ?? named ?? equal ?? spec.id
  const found = reservationOf(sql, job)
  if (!found) return null
  const { retryable, ...reservation } = found
  if (reservation.fingerprint !== spec.fingerprint)
    return { answer: { kind: 'mismatch', by: keyed === null ? 'name' : 'Idempotency-Key' } }
  if (!takeUndelivered(sql, job) && retryable) return { failed: job }
  renew(sql, job)
  return { answer: { kind: 'repeated', reservation: { ...reservation, reservedAt: Date.now() } } }
}

/** Idempotency-Keys are scoped to the browser token: one visitor's key must not find another visitor's job. */
const createScopedKey = ({ token }: Pick<JobSpec, 'token'>, key: string) => (token === null ? key : `${token}:${key}`)

const jobOfKey = (sql: SqlStorage, name: string): string | null =>
  sql
    .exec<{ job: string }>(
      'SELECT job FROM idempotency JOIN ledger USING (job) WHERE idempotency.name = ? AND created > ?',
      ...[name, Date.now() - IDEMPOTENCY_MS],
    )
    .toArray()[0]?.job ?? null

function rememberKey(sql: SqlStorage, name: string, { id }: JobSpec, now: number): void {
  sql.exec('INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?)', name, id, now)
}

/** Frees a job's name and Idempotency-Key for the next request. */
function releaseNames(sql: SqlStorage, job: string): void {
  sql.exec('UPDATE ledger SET name = NULL WHERE job = ?', job)
  sql.exec('DELETE FROM idempotency WHERE job = ?', job)
}

/** Removes a reservation without a job, and its names. */
export function dropOrphan(sql: SqlStorage, job: string): void {
  releaseNames(sql, job)
  dropReservation(sql, job)
}

/** Deletes expired Idempotency-Keys, and meters of expired browser tokens without open jobs. */
export function prune(sql: SqlStorage): void {
  const now = Date.now()
  sql.exec('DELETE FROM idempotency WHERE created <= ?', now - IDEMPOTENCY_MS)
  sql.exec(`DELETE FROM meters WHERE ${IDLE_TOKEN} AND refilled <= ?`, now - TOKEN_METER_MS)
}

/** The next time `prune` has rows to delete, in Unix milliseconds; null if none expire. */
export const findNextExpiry = (sql: SqlStorage): number | null =>
  sql
    .exec<{ at: number | null }>(
      `SELECT min(at) AS at FROM (SELECT min(created) + ? AS at FROM idempotency
        UNION ALL SELECT min(refilled) + ? FROM meters WHERE ${IDLE_TOKEN})`,
      ...[IDEMPOTENCY_MS, TOKEN_METER_MS],
    )
    .one().at
