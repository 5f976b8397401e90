// Whether an account lets a job in: one transaction over its SQLite that reserves the price or changes nothing.
import { creatorsOf, findKey, isActive, type KeyInfo } from './account-keys.ts'
import { entryOf, type LedgerEntry, meterOf, renew, reserve, sumsOf } from './account-ledger.ts'
import { takeOut } from './account-outbox.ts'
import type { AccountSettings } from './account-settings.ts'
import type { Credential, Scope } from './keys.ts'
import { type RateState, UNLIMITED } from './limits.ts'
import { type Metered, type Refusal, rateState, refusalOf, reserveOn } from './meter.ts'
import type { Tier } from './route.ts'

export const IDEMPOTENCY_SCHEMA = `
  CREATE TABLE IF NOT EXISTS idempotency (
    name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, job TEXT NOT NULL, created INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS idempotency_by_time ON idempotency (created);
  CREATE INDEX IF NOT EXISTS idempotency_by_job ON idempotency (job);`

/** How long an Idempotency-Key stands for its request. */
export const IDEMPOTENCY_MS = 24 * 3600_000

/** A browser token lives an hour at most, so its meter is of no use after two. */
const TOKEN_METER_MS = 2 * 3600_000
const IDLE_TOKEN = "id >= 'token:' AND id < 'token;' AND open = 0"

export type AdmissionRequest = {
  credential: Credential
  job: string
  tier: Tier
  /** Micro-dollars. */
  price: number
  idempotency: { name: string; fingerprint: string } | null
  /** A hash of the request. When it is `retried` without an Idempotency-Key, an open job with the same is the answer. */
  body?: { fingerprint: string; retried: boolean } | null
}
/** `repeated`: the Idempotency-Key, the job's id, or a retried request was let in before, as `job`. */
export type Admission =
  | { kind: 'admitted'; rates: RateState[] }
  | { kind: 'unauthorised' }
  | { kind: 'forbidden'; scope: Scope }
  | { kind: 'repeated'; job: string }
  | { kind: 'mismatch' }
  | (Refusal & { rates: RateState[] })

type Named = NonNullable<AdmissionRequest['idempotency']>

/** Decides on a request whose credential was checked, and reserves its price when it is let in. Call it in a transaction. */
export function decide(sql: SqlStorage, settings: AccountSettings, request: AdmissionRequest): Admission {
  const { credential, job, tier, price, idempotency, body } = request
  const key = findKey(sql, credential.keyId)
  if (!key || !isActive(key)) return { kind: 'unauthorised' }
  const before = known(sql, request)
  if (before) return before
  const now = Date.now()
  const metered = metersOf(sql, settings, key, credential)
  const refusal = short(sql, settings, price) ?? first(metered, price, now)
  if (refusal) return { ...refusal, rates: metered.flatMap((each) => rateState(each, now)) }
  reserve(sql, { job, keyId: key.id, tier, price, fingerprint: body?.fingerprint ?? null }, metered)
  if (idempotency) remember(sql, idempotency, job, now)
  const after = metered.map((each) => ({ ...each, meter: reserveOn(each, price, now) }))
  return { kind: 'admitted', rates: after.flatMap((each) => rateState(each, now)) }
}

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

function first(metered: Metered[], price: number, now: number): Refusal | null {
  for (const each of metered) {
    const refusal = refusalOf(each, price, now)
    if (refusal) return refusal
  }
  return null
}

/** A prepaid account pays from what it has left beside open reservations. */
function short(sql: SqlStorage, { prepaid }: AccountSettings, price: number): Refusal | null {
  if (!prepaid) return null
  const { credited, captured, reserved } = sumsOf(sql)
  const available = Math.max(0, credited - captured - reserved)
  return price > available ? { kind: 'over_budget', by: 'balance', holder: 'account', available, price } : null
}

function known(sql: SqlStorage, { job, idempotency, body }: AdmissionRequest): Admission | null {
  const repeated = idempotency && named(sql, idempotency)
  if (repeated) return repeated
  const [same] = sql.exec<Pick<LedgerEntry, 'job'>>(
    `SELECT job FROM ledger WHERE job = ?1 AND orphan = 0
     UNION ALL SELECT job FROM ledger WHERE state = 'reserved' AND fingerprint = ?2 LIMIT 1`,
    ...[job, body?.retried ? body.fingerprint : null],
  )
  if (same) return again(sql, same.job)
  // The id's first reservation was given up before there was a job: it starts anew.
  sql.exec('DELETE FROM ledger WHERE job = ? AND orphan = 1', job)
  return null
}

function named(sql: SqlStorage, { name, fingerprint }: Named): Admission | null {
  const [row] = sql.exec<{ fingerprint: string; job: string }>(
    'SELECT fingerprint, job FROM idempotency WHERE name = ? AND created > ?',
    ...[name, Date.now() - IDEMPOTENCY_MS],
  )
  if (!row) return null
  return row.fingerprint === fingerprint ? again(sql, row.job) : { kind: 'mismatch' }
}

function again(sql: SqlStorage, job: string): Admission {
  renew(sql, job)
  return { kind: 'repeated', job }
}

function remember(sql: SqlStorage, { name, fingerprint }: Named, job: string, now: number): void {
  sql.exec('INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?)', name, fingerprint, job, now)
}

/** Frees a job's Idempotency-Key: the next request with it makes another job. */
export function forgetName(sql: SqlStorage, job: string): void {
  sql.exec('DELETE FROM idempotency WHERE job = ?', job)
}

/** Takes back that a job was let in: its Idempotency-Key and its id are free again. False, and no change, when its price is held. */
export function forget(sql: SqlStorage, job: string): boolean {
  const state = entryOf(sql, job)?.state ?? 'released'
  if (state !== 'released') return false
  sql.exec('UPDATE ledger SET orphan = 1 WHERE job = ?', job)
  takeOut(sql, [job])
  forgetName(sql, job)
  return true
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
