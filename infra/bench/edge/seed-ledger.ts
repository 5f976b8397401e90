// Adds ledger rows to the SQLite file of a stopped local worker.
import fs from 'node:fs/promises'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'

/** Finds the SQLite file of the only account with a ledger. */
async function accountFile(persist: string): Promise<string> {
  for await (const name of fs.glob('**/*AccountDO*/*.sqlite', { cwd: persist })) {
    const file = path.join(persist, name)
    const database = new DatabaseSync(file)
    const found = database.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'ledger'").get()
    database.close()
    if (found) return file
  }
  throw new Error(`no account's ledger lies under ${persist}`)
}

/** Copies the oldest settled row of the ledger `count` times, each a second earlier and with a new id. */
export async function seedLedger(persist: string, count: number): Promise<void> {
  const database = new DatabaseSync(await accountFile(persist))
  try {
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
  } finally {
    database.close()
  }
}
