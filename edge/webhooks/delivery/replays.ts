// Replays of events and their rate limit, over the SQLite of WebhookDO.

import { DEFAULT_ENDPOINT } from '../endpoints/endpoints.ts'
import type { EventType } from '../endpoints/event-types.ts'
import { findDelivery, insertDelivery, saveDelivery } from './deliveries.ts'
import type { Target } from './delivery.ts'

export const REPLAY_SCHEMA = `
  CREATE TABLE IF NOT EXISTS replay_bucket (
    id INTEGER PRIMARY KEY CHECK (id = 1), tokens REAL NOT NULL, refilled INTEGER NOT NULL) STRICT;`

const MINUTE_MS = 60_000
/** The maximum number of events scanned per call, so that a long range does not block the object. */
const SCANNED = 5000

/** The refusal of a replay: the bucket is empty. */
export type ReplayLimit = { kind: 'limited'; retryAfterSeconds: number }

/** Returns the number of replays available now. The bucket refills at `perMinute`, which is also its capacity. */
export function countAvailableReplays(sql: SqlStorage, perMinute: number): number {
  const bucket = sql
    .exec<{ tokens: number; refilled: number }>('SELECT tokens, refilled FROM replay_bucket')
    .toArray()[0]
  if (!bucket) return perMinute
  const filled = (Math.max(0, Date.now() - bucket.refilled) / MINUTE_MS) * perMinute
  return Math.min(perMinute, bucket.tokens + filled)
}

/** Consumes `count` replays from the bucket. */
export function spendReplays(sql: SqlStorage, perMinute: number, count: number): void {
  const left = countAvailableReplays(sql, perMinute) - count
  sql.exec('INSERT OR REPLACE INTO replay_bucket VALUES (1, ?, ?)', left, Date.now())
}

/** Returns the refusal, with the time until the next replay is available, if the bucket is empty; otherwise null. */
export function limitReplays(sql: SqlStorage, perMinute: number): ReplayLimit | null {
  const missing = 1 - countAvailableReplays(sql, perMinute)
  return missing <= 0 ? null : { kind: 'limited', retryAfterSeconds: Math.ceil((missing * 60) / perMinute) }
}

/** Restarts the schedule of a delivery, with the same `webhook-id`. An attempt in progress ends first. */
export function restartDelivery(sql: SqlStorage, event: string, target: Target): void {
  insertDelivery(sql, event, target)
  const now = Date.now()
  const delivery = findDelivery(sql, event, target.endpoint)!
  saveDelivery(sql, { ...delivery, state: 'pending', failures: 0, due: now, started: now })
}

export type Range = { since: number; until: number; types: readonly EventType[]; all: boolean; limit: number }

/**
 * Returns the ids of events in a range of Unix milliseconds for the types of an endpoint, oldest first: undelivered and not pending, or all.
 * A bounded number of events is scanned; `next` is the time of the first remaining event, or null at the end. `limited` means that more
 * than `limit` events matched.
 */
export function selectEventsToReplay(sql: SqlStorage, endpoint: string, { since, until, types, all, limit }: Range) {
  const rows = sql
    .exec<{ id: string; created: number; matches: number }>(
      `SELECT id, created, type IN (SELECT value FROM json_each(?3)) AND (?4 OR NOT EXISTS
         (SELECT 1 FROM deliveries WHERE event = id AND endpoint = ?5 AND state IN ('delivered', 'pending')))
       AND (?5 <> '${DEFAULT_ENDPOINT}' OR EXISTS (SELECT 1 FROM deliveries WHERE event = id AND endpoint = ?5)) AS matches
       FROM events WHERE created >= ?1 AND created < ?2 ORDER BY created LIMIT ?6`,
      ...[since, until, JSON.stringify(types), all ? 1 : 0, endpoint, SCANNED + 1],
    )
    .toArray()
  const matches = rows.slice(0, SCANNED).filter((row) => row.matches)
  const next = matches[limit]?.created ?? rows[SCANNED]?.created ?? null
  return { ids: matches.slice(0, limit).map(({ id }) => id), next, limited: matches.length > limit }
}
