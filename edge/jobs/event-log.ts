// A job's record and event log, in the job object's storage.

import type { JobSpec } from '../accounts/job-spec.ts'
import {
  applyEvent,
  beginAttempt,
  isFinal,
  type JobRecord,
  type LogEntry,
  type LoggedEvent,
  newJob,
  RECORD_DEFAULTS,
} from './record.ts'

export type JobLog = ReturnType<typeof openJobLog>

const SCHEMA = `CREATE TABLE IF NOT EXISTS events (
  seq INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, at INTEGER NOT NULL, event TEXT NOT NULL) STRICT`

/**
 * Opens the log in a job object's storage. Allowed before `create`: `find`, `erase`, `isErased`, `refuses`, and `after`, which is then empty.
 */
export function openJobLog(storage: DurableObjectStorage) {
  let changed = Promise.withResolvers<void>()
  const find = (): JobRecord | null => {
    const stored = storage.kv.get<JobRecord>('job')
    return stored ? { ...RECORD_DEFAULTS, ...stored } : null
  }
  const job = (): JobRecord => {
    const found = find()
    if (!found) throw new Error('this job was never created')
    return found
  }
  const save = (record: JobRecord) => storage.kv.put('job', record)
  /** Logs an event, applies it to the record and saves the result. The record is an argument, because each read deserializes all fields. */
  const insert = (record: JobRecord, attempt: number, event: LoggedEvent): JobRecord => {
    const now = Date.now()
    storage.sql.exec('INSERT INTO events (attempt, at, event) VALUES (?, ?, ?)', attempt, now, JSON.stringify(event))
    const updated = applyEvent(record, event, now)
    save(updated)
    return updated
  }
  /** The last time of reservations that must not create the job. Earlier releases stored `true`. */
  const mark = (): number => {
    const stored = storage.kv.get<number | true>('erased') ?? Number.NEGATIVE_INFINITY
    return stored === true ? Number.POSITIVE_INFINITY : stored
  }
  const wake = () => {
    changed.resolve()
    changed = Promise.withResolvers<void>()
  }

  return {
    find,
    job,
    /** Stores a new job. An existing one is returned unchanged. */
    create(spec: JobSpec): JobRecord {
      const existing = find()
      if (existing) return existing
      return storage.transactionSync(() => {
        storage.kv.delete('erased')
        storage.sql.exec(SCHEMA)
        return insert(newJob(spec), 0, { type: 'queued' })
      })
    },
    /** Starts an attempt of an open job. */
    begin(attempt: number): void {
      const record = job()
      if (isFinal(record)) return
      storage.transactionSync(() => insert(beginAttempt(record, attempt, Date.now()), attempt, { type: 'starting' }))
      wake()
    },
    /**
     * Logs an event and applies it to the record, which it returns. Drops events after the job's end, and of attempts other than the current
     * one.
     */
    append(attempt: number, event: LoggedEvent): JobRecord {
      const record = job()
      if (isFinal(record) || record.attempt !== attempt) return record
      const updated = storage.transactionSync(() => insert(record, attempt, event))
      wake()
      return updated
    },
    update(
      change: Partial<
        Pick<JobRecord, 'waiting' | 'granted' | 'nextAt' | 'endpoint' | 'run' | 'images' | 'settled' | 'announced'>
      >,
    ): void {
      save({ ...job(), ...change })
    },
    /** The entries after `seq`, oldest first. */
    after(seq: number): LogEntry[] {
      if (!find()) return []
      const rows = storage.sql.exec<Omit<LogEntry, 'event'> & { event: string }>(
        'SELECT * FROM events WHERE seq > ? ORDER BY seq',
        seq,
      )
      return [...rows].map((row) => ({ ...row, event: JSON.parse(row.event) }))
    },
    /** Deletes the previews of the images with these indexes, or of all images. */
    deletePreviews(indexes: readonly number[] | null): void {
      storage.sql.exec(
        `DELETE FROM events WHERE event ->> 'type' = 'preview'
         AND (?1 IS NULL OR event ->> 'image' IN (SELECT value FROM json_each(?1)))`,
        indexes && JSON.stringify(indexes),
      )
    },
    /**
     * Deletes record and log, and marks the id so that no late request creates the job again with a reservation made until `reservedAt` (Unix
     * milliseconds).
     */
    erase(reservedAt = Number.POSITIVE_INFINITY): void {
      storage.transactionSync(() => {
        storage.sql.exec('DROP TABLE IF EXISTS events')
        storage.kv.delete('job')
        storage.kv.put('erased', Math.max(reservedAt, mark()))
      })
    },
    isErased: () => mark() > Number.NEGATIVE_INFINITY,
    /** Whether the id is marked for a reservation made at `reservedAt`. */
    refuses: (reservedAt: number) => reservedAt <= mark(),
    /** Resolves at the next entry. */
    changed: () => changed.promise,
  }
}
