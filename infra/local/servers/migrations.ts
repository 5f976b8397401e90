// Migrations of the local D1 database, through wrangler's API instead of its command.
import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { D1Database } from '@cloudflare/workers-types'
import { makeScratch } from '../../command/scratch.ts'
import { cacheDirectory, digestOf, makeOnce, ROOT } from '../models/package-cache.ts'

const MIGRATIONS = path.join(ROOT, 'edge/migrations')
const DATABASE = { binding: 'DB', database_name: 'octet', migrations_dir: MIGRATIONS }
/** The table of migrations recorded by `wrangler d1 migrations apply`. */
const TABLE = `CREATE TABLE IF NOT EXISTS d1_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE,
  applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)`
const MARK = 'migrated'

/** Applies the pending migrations of edge/migrations/ to the database of a state directory, unless an earlier start did. */
export async function migrate(state: string): Promise<void> {
  const digest = await digestOf(['edge/migrations/*.sql'])
  const mark = path.join(state, MARK)
  if ((await readFile(mark, 'utf8').catch(() => '')) === digest) return
  if ((await readdir(path.join(state, 'v3')).catch(() => null)) === null) await copyMigrated(state, digest)
  else await apply(state)
  await writeFile(mark, digest)
}

/** Copies a migrated empty database, which is made once. */
async function copyMigrated(state: string, digest: string): Promise<void> {
  const template = path.join(await cacheDirectory('migrated', digest), 'state')
  await makeOnce(template, async (out) => {
    await mkdir(out)
    await apply(out)
  })
  // A killed process would leave a truncated database under its name.
  await using scratch = makeScratch('.migrated-', state)
  const copy = path.join(scratch.directory, 'v3')
  await cp(path.join(template, 'v3'), copy, { recursive: true })
  await rename(copy, path.join(state, 'v3'))
}

async function apply(state: string): Promise<void> {
  const { getPlatformProxy, unstable_splitSqlQuery: split } = await import('wrangler')
  const config = path.join(state, 'database.json')
  await writeFile(config, JSON.stringify({ name: 'octet', d1_databases: [DATABASE] }))
  const proxy = await getPlatformProxy<{ DB: D1Database }>({
    configPath: config,
    persist: { path: path.join(state, 'v3') },
    remoteBindings: false,
  })
  try {
    const { DB } = proxy.env
    await DB.prepare(TABLE).run()
    const { results } = await DB.prepare('SELECT name FROM d1_migrations').all<{ name: string }>()
    const applied = new Set(results.map(({ name }) => name))
    for (const name of (await readdir(MIGRATIONS)).filter((name) => name.endsWith('.sql')).sort()) {
      if (applied.has(name)) continue
      const statements = split(await readFile(path.join(MIGRATIONS, name), 'utf8'))
      const record = DB.prepare('INSERT INTO d1_migrations (name) VALUES (?)').bind(name)
      await DB.batch([...statements.map((sql) => DB.prepare(sql)), record])
    }
  } finally {
    await proxy.dispose()
    await rm(config)
  }
}
