// The SQLite databases in the state of a local worker.
import fs from 'node:fs/promises'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'

/** The files of each kind of database, and a table that each nonempty one has. */
const KINDS = {
  account: ['**/*AccountDO*/*.sqlite', 'ledger'],
  job: ['**/*JobDO*/*.sqlite', '_cf_KV'],
  usage: ['**/*D1*/*.sqlite', 'usage_ledger'],
} as const

/** The result of `read` for each database of this kind, opened one at a time. */
export async function mapDatabases<Result>(
  persist: string,
  kind: keyof typeof KINDS,
  read: (database: DatabaseSync) => Result,
): Promise<Result[]> {
  const [pattern, table] = KINDS[kind]
  const results: Result[] = []
  for await (const name of fs.glob(pattern, { cwd: persist })) {
    const database = new DatabaseSync(path.join(persist, name))
    try {
      if (database.prepare('SELECT 1 FROM sqlite_schema WHERE name = ?').get(table)) results.push(read(database))
    } finally {
      database.close()
    }
  }
  return results
}
