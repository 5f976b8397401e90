// Paged export of an account's own rows: keys without their hashes, credits, usage, and jobs.

import type { LedgerEntry } from '../usage/record.ts'
import type { JobSpec } from './job-spec.ts'
import type { KeyInfo } from './keys/key-info.ts'
import { listKeys } from './keys/key-table.ts'
import type { UsageRow } from './ledger.ts'

export const EXPORT_SECTIONS = ['keys', 'credits', 'usage', 'jobs'] as const
export type ExportSection = (typeof EXPORT_SECTIONS)[number]

/** A credit; `amount` is micro-dollars, `created` Unix milliseconds. */
export type Credit = { id: string; amount: number; note: string; created: number }
/** A job's ledger row. `spec` is null after settlement. */
export type ExportedJob = LedgerEntry & { name: string | null; spec: JobSpec | null }
/** Rows of one section. `next` is the cursor of the next page, or null on the last page. */
export type ExportPage = { rows: (KeyInfo | Credit | UsageRow | ExportedJob)[]; next: string | null }

const ROWS = 500
/** Smaller than ROWS, because each job is read from its own object. */
const JOBS = 100

type NumberedRow<Row> = Row & { rowid: number }

/** Builds a page of rows ordered by rowid; the rowid is the cursor. */
function pageOf<Row, Shown>(rows: NumberedRow<Row>[], limit: number, show: (row: NumberedRow<Row>) => Shown) {
  return { rows: rows.map(show), next: rows.length < limit ? null : String(rows.at(-1)!.rowid) }
}

function selectCreditsAfter(sql: SqlStorage, after: number): ExportPage {
  const rows = sql.exec<NumberedRow<Credit>>(
    'SELECT rowid, id, amount, note, created FROM credits WHERE rowid > ? ORDER BY rowid LIMIT ?',
    ...[after, ROWS],
  )
  return pageOf(rows.toArray(), ROWS, ({ rowid: _, ...credit }): Credit => credit)
}

type JobRow = Omit<ExportedJob, 'spec'> & { spec: string | null }

function selectJobsAfter(sql: SqlStorage, after: number): ExportPage {
  const rows = sql.exec<NumberedRow<JobRow>>(
    `SELECT rowid, job, name, key_id, tier, amount, charged, state, reserved, settled, spec FROM ledger
     WHERE rowid > ? ORDER BY rowid LIMIT ?`,
    ...[after, JOBS],
  )
  const show = ({ rowid: _, spec, ...row }: JobRow & { rowid: number }): ExportedJob => ({
    ...row,
    spec: spec === null ? null : JSON.parse(spec),
  })
  return pageOf(rows.toArray(), JOBS, show)
}

/** The cursor is the last day, key and tier, separated by spaces; none of the values contains a space. */
function selectUsageAfter(sql: SqlStorage, after: string): ExportPage {
  const rows = sql
    .exec<UsageRow>(
      'SELECT * FROM usage WHERE (day, key_id, tier) > (?, ?, ?) ORDER BY day, key_id, tier LIMIT ?',
      ...[...(after === '' ? ['', '', ''] : after.split(' ')), ROWS],
    )
    .toArray()
  const last = rows.at(-1)
  return { rows, next: last && rows.length === ROWS ? `${last.day} ${last.key_id} ${last.tier}` : null }
}

/** Returns the page of a section after the cursor `after`, oldest first. A null cursor is the start. */
export function exportRows(sql: SqlStorage, section: ExportSection, after: string | null): ExportPage {
  switch (section) {
    case 'keys':
      return { rows: listKeys(sql), next: null }
    case 'credits':
      return selectCreditsAfter(sql, Number(after ?? 0))
    case 'usage':
      return selectUsageAfter(sql, after ?? '')
    case 'jobs':
      return selectJobsAfter(sql, Number(after ?? 0))
  }
}
