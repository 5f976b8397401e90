// Admission of jobs to an account: one transaction over its SQLite that reserves the price or changes nothing.
import { creatorsOf, findKey, isActive, type KeyInfo } from './account-keys.ts'
import {
  countRequest,
  dropReservation,
  jobNamed,
  meterOf,
  type Reservation,
  renew,
  reservationOf,
  reserve,
  reusableJob,
  sumsOf,
} from './account-ledger.ts'
import type { AccountSettings } from './account-settings.ts'
import { hasFreeSlot } from './account-slots.ts'
import type { JobSpec } from './job-record.ts'
import type { Credential, Scope } from './keys.ts'
import { type RateState, UNLIMITED } from './limits.ts'
import { type Metered, type Refusal, rateState, refusalOf } from './meter.ts'
import { FULL_BYTES } from './retention.ts'

export const IDEMPOTENCY_SCHEMA = `
  CREATE TABLE IF NOT EXISTS idempotency (
    name TEXT PRIMARY KEY, job TEXT NOT NULL, created INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS idempotency_by_time ON idempotency (created);
  CREATE INDEX IF NOT EXISTS idempotency_by_job ON idempotency (job);`

/** How long an Idempotency-Key stands for its request. */
export const IDEMPOTENCY_MS = 24 * 3600_000

/** A browser token lives an hour at most, so its meter is of no use after two. */
const TOKEN_METER_MS = 2 * 3600_000
const IDLE_TOKEN = "id >= 'token:' AND id < 'token;' AND open = 0"

export type AdmissionRequest = {
  credential: Credential
  spec: JobSpec
  idempotencyKey: string | null
  /** A repeat by an SDK that sends no Idempotency-Key: an open job of an equal request is its answer. */
  retried: boolean
  /** An earlier job with equal images may be the answer, at no price. */
  reuse: boolean
}
/** `repeated`: an earlier request was admitted as this reservation. `reused`: that job's images are the answer. */
export type Admission =
  | { kind: 'admitted'; reservation: Reservation; rates: RateState[] }
  | { kind: 'repeated'; reservation: Reservation }
  | { kind: 'reused'; job: string; rates: RateState[] }
  | { kind: 'unauthorised' }
  | { kind: 'forbidden'; scope: Scope }
  | { kind: 'mismatch'; by: 'name' | 'Idempotency-Key' }
  | { kind: 'full' }
  | (Refusal & { rates: RateState[] })

/**
 * Decides on a request whose credential was checked, and reserves its price when it is admitted. `share` is the account's number of slots at
 * the request's endpoint. Must run in a transaction.
 */
export function decide(
  sql: SqlStorage,
  settings: AccountSettings,
  request: AdmissionRequest,
  share: number,
): Admission {
  const { credential, idempotencyKey } = request
  const spec = { ...request.spec, retentionDays: settings.retention_days }
  const key = findKey(sql, credential.keyId)
  if (!key || !isActive(key)) return { kind: 'unauthorised' }
  const earlier = findEarlier(sql, { ...request, spec })
  if (earlier && 'answer' in earlier) return earlier.answer
  if (sql.databaseSize > FULL_BYTES) return { kind: 'full' }
  const now = Date.now()
  const metered = metersOf(sql, settings, key, credential)
  const refusal = checkBalance(sql, settings, spec.price) ?? findRefusal(metered, spec.price, now)
  if (refusal) return { ...refusal, rates: ratesOf(metered, now) }
  const reused = request.reuse ? reusableJob(sql, spec.digest) : null
  if (reused) {
    countRequest(sql, metered)
    return { kind: 'reused', job: reused, rates: ratesOf(metersOf(sql, settings, key, credential), now) }
  }
  if (earlier) releaseNames(sql, earlier.failed)
  const granted = hasFreeSlot(sql, spec.decision.endpoint, share)
  reserve(sql, spec, metered, granted)
  if (idempotencyKey !== null) rememberKey(sql, scopedKey(spec, idempotencyKey), spec, now)
  const { id: job, fingerprint, price } = spec
  const reservation = { job, fingerprint, price, reservedAt: now, granted, spec }
  return { kind: 'admitted', reservation, rates: ratesOf(metersOf(sql, settings, key, credential), now) }
}

const ratesOf = (metered: Metered[], now: number) => metered.flatMap((each) => rateState(each, now))

function metersOf(sql: SqlStorage, settings: AccountSettings, key: KeyInfo, credential: Credential): Metered[] {
  const metered: Metered[] = [
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

function findRefusal(metered: Metered[], price: number, now: number): Refusal | null {
  for (const each of metered) {
    const refusal = refusalOf(each, price, now)
    if (refusal) return refusal
  }
  return null
}

/** A prepaid account pays from its balance less open reservations. */
function checkBalance(sql: SqlStorage, { prepaid }: AccountSettings, price: number): Refusal | null {
  if (!prepaid) return null
  const { credited, captured, reserved } = sumsOf(sql)
  const available = Math.max(0, credited - captured - reserved)
  return price > available ? { kind: 'over_budget', by: 'balance', holder: 'account', available, price } : null
}

type Earlier = { answer: Admission } | { failed: string } | null

/**
 * The answer of an earlier request under the same Idempotency-Key, name or id, or of an open equal one; or the job that failed under them and
 * gives way to this one. Null when this request is new.
 */
function findEarlier(sql: SqlStorage, { spec, idempotencyKey, retried }: AdmissionRequest): Earlier {
  const keyed = idempotencyKey === null ? null : jobOfKey(sql, scopedKey(spec, idempotencyKey))
  const named = spec.name === null ? null : jobNamed(sql, spec.name)
  if (keyed !== null && spec.name !== null && keyed !== named)
    return { answer: { kind: 'mismatch', by: 'Idempotency-Key' } }
  // An account's reply may be lost after its transaction: the same worker then asks again with the same id.
  const equal = retried && idempotencyKey === null && spec.name === null ? openJobLike(sql, spec) : null
  const job = keyed ?? named ?? equal ?? spec.id
  const found = reservationOf(sql, job)
  if (!found) return null
  const { retryable, ...reservation } = found
  if (reservation.fingerprint !== spec.fingerprint)
    return { answer: { kind: 'mismatch', by: keyed === null ? 'name' : 'Idempotency-Key' } }
  if (retryable) return { failed: job }
  renew(sql, job)
  return { answer: { kind: 'repeated', reservation: { ...reservation, reservedAt: Date.now() } } }
}

/** Browser tokens have Idempotency-Keys of their own: one visitor's must not find another visitor's job. */
const scopedKey = ({ token }: JobSpec, key: string) => (token === null ? key : `${token}:${key}`)

const jobOfKey = (sql: SqlStorage, name: string): string | null =>
  sql
    .exec<{ job: string }>(
      'SELECT job FROM idempotency JOIN ledger USING (job) WHERE idempotency.name = ? AND created > ?',
      ...[name, Date.now() - IDEMPOTENCY_MS],
    )
    .toArray()[0]?.job ?? null

/** An open job of an equal request by the same key or token: another one's limits must not be used. */
const openJobLike = (sql: SqlStorage, { fingerprint, keyId, token }: JobSpec): string | null =>
  sql
    .exec<{ job: string }>(
      "SELECT job FROM ledger WHERE state = 'reserved' AND fingerprint = ? AND key_id = ? AND token IS ? LIMIT 1",
      ...[fingerprint, keyId, token],
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

/** Removes a reservation that no job stands behind, with its names. */
export function dropOrphan(sql: SqlStorage, job: string): void {
  releaseNames(sql, job)
  dropReservation(sql, job)
}

/** Deletes what no longer counts: expired Idempotency-Keys, and meters of browser tokens that no job holds. */
export function prune(sql: SqlStorage): void {
  const now = Date.now()
  sql.exec('DELETE FROM idempotency WHERE created <= ?', now - IDEMPOTENCY_MS)
  sql.exec(`DELETE FROM meters WHERE ${IDLE_TOKEN} AND refilled <= ?`, now - TOKEN_METER_MS)
}

/** When `prune` next has something to delete, in Unix milliseconds; null when there is nothing that expires. */
export const nextExpiry = (sql: SqlStorage): number | null =>
  sql
    .exec<{ at: number | null }>(
      `SELECT min(at) AS at FROM (SELECT min(created) + ? AS at FROM idempotency
        UNION ALL SELECT min(refilled) + ? FROM meters WHERE ${IDLE_TOKEN})`,
      ...[IDEMPOTENCY_MS, TOKEN_METER_MS],
    )
    .one().at
