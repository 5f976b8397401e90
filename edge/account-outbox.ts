// The way out of an account's ledger: settled rows go to the Queue `octet-usage` until it has taken them, so each arrives at least once.
import type { LedgerEntry, Outcome } from './account-ledger.ts'
import type { Env } from './env.ts'
import type { Observed } from './forecast.ts'
import type { Tier } from './route.ts'

/** Settled rows wait this long for company, so that a busy account sends batches. */
export const OUTBOX_MS = 10_000
const BATCH = 100
const BATCHES = 10

/** A settled job for the export. `id` is the ledger id, `<account>/<job>`, the same whenever it is sent. */
export type UsageRecord = {
  id: string
  account: string
  job: string
  key_id: string
  tier: Tier
  state: Outcome
  reserved_amount: number
  charged: number
  reserved: number
  settled: number
  stripe_customer: string | null
  observed: Observed | null
}
type Row = LedgerEntry & { state: Outcome; settled: number; observed: string | null }
type Sender = { account: string; stripe_customer: string | null }

const PENDING = 'settled IS NOT NULL AND exported IS NULL AND orphan = 0'

export const outboxSize = (sql: SqlStorage): number =>
  sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ledger WHERE ${PENDING}`).one().n

const recordOf = ({ account, stripe_customer }: Sender, row: Row): UsageRecord => {
  const { job, key_id, tier, state, amount, charged, reserved, settled } = row
  const money = { state, reserved_amount: amount, charged, reserved, settled, stripe_customer }
  const observed = row.observed === null ? null : (JSON.parse(row.observed) as Observed)
  return { id: `${account}/${job}`, account, job, key_id, tier, ...money, observed }
}

/** Sends up to a thousand settled rows, oldest first, and marks each once the Queue has it. */
export async function exportBatch(sql: SqlStorage, { USAGE }: Pick<Env, 'USAGE'>, sender: Sender): Promise<void> {
  for (let batch = 0; batch < BATCHES; batch++) {
    const rows = sql.exec<Row>(`SELECT * FROM ledger WHERE ${PENDING} ORDER BY settled LIMIT ?`, BATCH).toArray()
    if (rows.length === 0) return
    await USAGE.sendBatch(rows.map((row) => ({ body: recordOf(sender, row) })))
    const now = Date.now()
    for (const { job } of rows) sql.exec('UPDATE ledger SET exported = ? WHERE job = ?', now, job)
  }
}
