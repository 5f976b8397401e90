// Measures the storage used per job: a local worker runs jobs, then the pages of its SQLite files are counted.
import type { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { startGpuStub } from '../bench/edge/gpu-stub.ts'
import { measure, newClient } from '../bench/edge/load.ts'
import { makeScratch } from '../command/scratch.ts'
import { mapDatabases } from '../local/servers/databases.ts'
import { type LocalOffer, startWorker } from '../local/servers/worker.ts'
import { createKey } from '../operator/keys.ts'
import { createSecrets } from '../operator/secrets.ts'

/** Bytes per row including its share of all indexes, and per JobDO. */
type StorageSizes = {
  account: Record<'ledger' | 'idempotency', number>
  job: number
  database: Record<'usage_ledger' | 'observations', number>
}

const OFFER: LocalOffer = {
  ...{ route: 'full', model: 'stub', tier: 'fp8', steps: 28, guidance_scale: 4.5 },
  ...{ width: 1024, height: 1024, max_pixels: 1024 ** 2 },
}
/** A prompt of 72 words. */
const PROMPT = 'a small red boat on a quiet lake before high mountains in the last light of the evening, '.repeat(4)
const BODY = JSON.stringify({ prompt: PROMPT.trim() })
const CONNECTIONS = 8
const EXPORT_MS = 120_000

const numberOf = (database: DatabaseSync, sql: string, ...values: string[]) =>
  Number(Object.values(database.prepare(sql).get(...values)!)[0])

/** Bytes per row of a table and its indexes, by page size. */
function measureBytesPerRow(database: DatabaseSync, table: string): number {
  const bytes = numberOf(
    database,
    'SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_schema WHERE tbl_name = ?)',
    table,
  )
  return Math.round(bytes / numberOf(database, `SELECT count(*) FROM "${table}"`))
}

const measureTables = <Table extends string>(database: DatabaseSync, tables: readonly Table[]) =>
  Object.fromEntries(tables.map((table) => [table, measureBytesPerRow(database, table)])) as Record<Table, number>

const measureFileBytes = (database: DatabaseSync) =>
  numberOf(database, 'PRAGMA page_count') * numberOf(database, 'PRAGMA page_size')

async function readSizes(persist: string, jobs: number): Promise<StorageSizes> {
  const [account] = await mapDatabases(persist, 'account', (found) => measureTables(found, ['ledger', 'idempotency']))
  const [database] = await mapDatabases(persist, 'usage', (found) =>
    measureTables(found, ['usage_ledger', 'observations']),
  )
  const objects = await mapDatabases(persist, 'job', measureFileBytes)
  if (!account || !database || objects.length !== jobs) throw new Error(`${objects.length} of ${jobs} jobs were stored`)
  return { account, job: Math.round(objects.reduce((sum, bytes) => sum + bytes, 0) / jobs), database }
}

/** Waits until every job has arrived in D1. */
async function awaitExport(persist: string, jobs: number): Promise<void> {
  const deadline = Date.now() + EXPORT_MS
  for (;;) {
    const count = (database: DatabaseSync) => numberOf(database, 'SELECT count(*) FROM usage_ledger')
    const [exported] = await mapDatabases(persist, 'usage', count)
    if (exported === jobs) return
    if (Date.now() > deadline) throw new Error(`D1 has ${exported} of ${jobs} jobs after ${EXPORT_MS / 1000} s`)
    await sleep(500)
  }
}

/** Runs jobs of one image at 28 steps and measures their storage. Whole pages are counted, so more jobs give a more precise result. */
export async function measureStorage(jobs: number): Promise<StorageSizes> {
  await using scratch = makeScratch('octet-storage-')
  const persist = scratch.directory
  const { secrets } = await createSecrets()
  const gpu = await startGpuStub({ steps: true })
  const vars = { OCTET_ACCOUNT_LIMITS: '{}', GPU_SLOTS: '1000' }
  try {
    const worker = await startWorker({ gpuUrl: gpu.url, persist, secrets, vars, catalog: { offers: [OFFER] } })
    try {
      const { key } = await createKey({ url: worker.url, token: secrets.OCTET_ADMIN_TOKEN }, 'storage')
      const client = newClient(worker.url)
      const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
      const generate = () => {
        const ownHeaders = { ...headers, 'idempotency-key': crypto.randomUUID() }
        return client.send('/v1/images/generations', { method: 'POST', headers: ownHeaders, body: BODY })
      }
      await measure(generate, jobs, CONNECTIONS)
      await awaitExport(persist, jobs)
      client.close()
    } finally {
      await worker.stop()
    }
    return await readSizes(persist, jobs)
  } finally {
    await gpu.stop()
  }
}
