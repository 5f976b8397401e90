// Adds ledger rows to the SQLite file of a stopped local worker.
import { mapDatabases } from '../../local/servers/databases.ts'

/** Copies the oldest settled row of each account's ledger `count` times, each a second earlier and with a new id. */
export async function seedLedger(persist: string, count: number): Promise<void> {
  const seeded = await mapDatabases(persist, 'account', (database) => {
    const columns = database.prepare('PRAGMA table_info(ledger)').all() as { name: string }[]
    const others: Record<string, string> = {
      job: "printf('job_%032x', n)",
      reserved: 'reserved - n * 1000',
      settled: 'settled - n * 1000',
    }
    const values = columns.map(({ name }) => others[name] ?? `"${name}"`).join(', ')
    database.exec(`
      WITH RECURSIVE counter (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < ${count}),
      oldest AS (SELECT * FROM ledger WHERE settled IS NOT NULL ORDER BY reserved LIMIT 1)
      INSERT INTO ledger SELECT ${values} FROM oldest, counter`)
  })
  if (seeded.length === 0) throw new Error(`${persist} has no account with a ledger`)
}
