// The tables of an account's SQLite, and their upgrade from earlier releases.

import { IDEMPOTENCY_SCHEMA } from './admission.ts'
import { DELETION_SCHEMA } from './deletion.ts'
import { UNDELIVERED_SCHEMA } from './equal-jobs.ts'
import { KEYS_SCHEMA } from './keys/key-table.ts'
import { LEDGER_SCHEMA } from './ledger.ts'
import { SETTINGS_SCHEMA } from './settings.ts'
import { OUTBOX_SCHEMA } from './usage-outbox.ts'

/** Columns added since the first release, with defaults for existing rows. */
const ADDED_COLUMNS = {
  keys: { created_by: 'TEXT', chosen_model: 'TEXT' },
  ledger: {
    name: 'TEXT',
    token: 'TEXT',
    digest: "TEXT NOT NULL DEFAULT ''",
    spec: 'TEXT',
    summary: 'TEXT',
    retryable: 'INTEGER NOT NULL DEFAULT 0',
  },
  settings: { prompt_metadata: 'INTEGER NOT NULL DEFAULT 1' },
}

/** Columns of earlier releases that are no longer used. */
const DROPPED_COLUMNS = { idempotency: ['fingerprint'], ledger: ['endpoint', 'granted'] }

const columnsOf = (sql: SqlStorage, table: string): string[] =>
  sql
    .exec<{ name: string }>('SELECT name FROM pragma_table_info(?)', table)
    .toArray()
    .map(({ name }) => name)

function addColumns(sql: SqlStorage, table: string, added: Record<string, string>): void {
  const present = columnsOf(sql, table)
  if (present.length === 0) return
  for (const [column, definition] of Object.entries(added))
    if (!present.includes(column)) sql.exec(`ALTER TABLE ${table} ADD COLUMN ${column} ${definition}`)
}

function dropColumns(sql: SqlStorage, table: string, dropped: readonly string[]): void {
  const present = columnsOf(sql, table).filter((column) => dropped.includes(column))
  for (const column of present) sql.exec(`ALTER TABLE ${table} DROP COLUMN ${column}`)
}

/** Creates the missing tables, columns and indexes. Existing rows are kept. Must run in a transaction. */
export function createAccountTables(sql: SqlStorage): void {
  for (const [table, added] of Object.entries(ADDED_COLUMNS)) addColumns(sql, table, added)
  // An indexed column cannot be dropped.
  sql.exec('DROP INDEX IF EXISTS ledger_slots')
  for (const [table, dropped] of Object.entries(DROPPED_COLUMNS)) dropColumns(sql, table, dropped)
  const schemas = [
    ...[KEYS_SCHEMA, LEDGER_SCHEMA, OUTBOX_SCHEMA, SETTINGS_SCHEMA],
    ...[IDEMPOTENCY_SCHEMA, UNDELIVERED_SCHEMA, DELETION_SCHEMA],
  ]
  sql.exec(schemas.join(''))
}
