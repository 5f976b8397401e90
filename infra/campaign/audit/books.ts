// Consistency checks between jobs, account ledgers and D1. Each function returns the violations.
import type { Job } from '../../system/client.ts'
import type { Books, JobRow, LedgerRow } from './records.ts'

const groupByJob = <Row extends { job: string }>(rows: readonly Row[]) => Map.groupBy(rows, ({ job }) => job)

/** Every job has exactly one ledger row, charged at its price, and a matching row in D1. Rows without a job must be released. */
export function findBookProblems({ ledger, usage }: Books, jobs: readonly Job[]): string[] {
  const known = new Set(jobs.map(({ id }) => id))
  const [rows, exported] = [groupByJob(ledger), groupByJob(usage)]
  const unknown = ledger.filter(({ job, state }) => !known.has(job) && state !== 'released')
  const wrong = jobs.flatMap(({ id, price_microdollars: price }) => {
    const [row, second] = rows.get(id) ?? []
    const [sent, resent] = exported.get(id) ?? []
    const agree = row?.charged === price && sent?.charged === price && row.state === sent.state
    if (agree && !second && !resent) return []
    return [`${id} cost ${price}; the ledger and D1 have ${JSON.stringify([rows.get(id), exported.get(id)])}`]
  })
  return [...unknown.map(({ job }) => `the ledger charges ${job}, which does not exist`), ...wrong]
}

function listDifferences({ id, price, fingerprint }: JobRow, row: LedgerRow | undefined): string[] {
  if (!row) return [`${id} has no row in the ledger`]
  return [
    ...(row.amount === price ? [] : [`${id} has a price of ${price} but a reservation of ${row.amount}`]),
    ...(row.fingerprint === fingerprint ? [] : [`${id} and its row in the ledger have different fingerprints`]),
  ]
}

/** Every job record matches its ledger row in price and fingerprint, and every job listed by the API has a record. */
export function findReservationProblems({ ledger, jobs: records }: Books, listed: readonly Job[]): string[] {
  const rows = new Map(ledger.map((row) => [row.job, row]))
  const found = new Set(records.map(({ id }) => id))
  const unread = listed.filter(({ id }) => !found.has(id))
  return [
    ...unread.map(({ id }) => `the record of ${id} could not be read`),
    ...records.flatMap((record) => listDifferences(record, rows.get(record.id))),
  ]
}
