// Helpers for account deletion tests: fill an account with data, delete it step by step, and find remaining data.
import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, vi } from 'vitest'
import { accountOf, createRequest, queryRows } from './admissions.ts'
import { type Caller, fetchWorker, type GeneratedJob, generate, generatedOf, send } from './client.ts'
import { cancellations, fakeGpu, type SeenRequest, untilCanceled, works } from './fake-gpu.ts'
import { jobOf, waitForEnd } from './jobs.ts'
import { addEndpoint, outboxOf } from './manager.ts'
import { configure } from './operator.ts'
import { fakeReceiver, RECEIVER } from './receiver.ts'

const running: string[] = []
// A running job would prevent the test from ending.
afterEach(() => {
  cancellations.push(...running.splice(0).map((job) => ({ job, attempt: 1 })))
})

export const readDeletion = async (caller: Caller) => (await accountOf(caller).view()).deletion
export const requestDeletion = (caller: Caller) =>
  fetchWorker(`/v1/account?confirm=${caller.account}`, { method: 'DELETE', headers: caller.headers })

/** Runs the deletion's alarms, skipping their delays, until the deletion reaches `step`. */
export const advanceDeletion = (caller: Caller, step: string) =>
  vi.waitFor(
    async () => {
      const now = (await readDeletion(caller))?.step
      if (now === step) return
      await queryRows(caller, 'UPDATE deletion SET due = min(due, 0)')
      await runDurableObjectAlarm(accountOf(caller))
      if ((await readDeletion(caller))?.step !== step) throw new Error(`the deletion is at ${now}`)
    },
    { timeout: 20_000, interval: 20 },
  )

export const resultsOf = async ({ account }: Caller) => {
  const { objects } = await env.RESULTS.list()
  return objects.filter(({ key }) => key.includes(account)).map(({ key }) => key)
}
export const select = async (sql: string) => (await env.DB.prepare(sql).all()).results
export const listStored = (job: string) =>
  runInDurableObject(jobOf({ id: job }), (_, { storage }) => [
    ...[...storage.kv.list()].map(([name]) => name),
    ...storage.sql.exec("SELECT name FROM sqlite_schema WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'").toArray(),
  ])
/** Lists the nonempty tables of an object. */
export const listTablesWithRows = <T extends Rpc.DurableObjectBranded>(
  object: DurableObjectStub<T>,
): Promise<string[]> =>
  runInDurableObject(
    object as never,
    ((_: unknown, { storage }: DurableObjectState) =>
      storage.sql
        .exec<{ name: string }>(
          "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_cf%' ESCAPE '\\'",
        )
        .toArray()
        .map(({ name }) => name)
        .filter((name) => storage.sql.exec(`SELECT 1 FROM "${name}" LIMIT 1`).toArray().length > 0)) as never,
  )

/** Fills an account with every kind of stored data. The last of the returned `jobs` is running. */
export async function fillAccount(caller: Caller) {
  const gpu: SeenRequest[] = fakeGpu((seen) => (seen.request.prompt === 'runs' ? untilCanceled(1)(seen) : works(seen)))
  fakeReceiver()
  await addEndpoint(caller)
  await configure(caller.account, { limits: { concurrent_jobs: 7 } })
  await accountOf(caller).credit('invoice-1', 5000, 'paid by Ada Lovelace')
  const body = { prompt: 'a secret wish', n: 2, webhook: `${RECEIVER}/mine` }
  const made: GeneratedJob = await generatedOf(await generate(caller, body, { 'idempotency-key': 'once' }))
  const { id } = (await (await send('PUT', '/v1/jobs/mine', caller, { prompt: 'runs' })).json()) as { id: string }
  running.push(id)
  await vi.waitFor(async () => {
    if ((await jobOf({ id }).view())?.state !== 'running') throw new Error('not running yet')
  })
  const orphan = await createRequest(caller, { name: 'orphan' })
  await accountOf(caller).admit(orphan)
  await waitForEnd({ id: made.octet.job })
  return { made, gpu, orphan: orphan.spec, jobs: [made.octet.job, orphan.spec.id, id] }
}

/** Lists all remaining data of an account except its deletion record. */
export async function findRemains(caller: Caller, jobs: readonly string[]): Promise<unknown[]> {
  const { account } = caller
  const own = await listTablesWithRows(accountOf(caller))
  // Each erased job leaves a mark against late requests; the job's alarm deletes it.
  for (const job of jobs) await runDurableObjectAlarm(jobOf({ id: job }))
  const objects = await Promise.all(jobs.map(listStored))
  const inDatabase = await select(
    `SELECT id FROM usage_ledger WHERE account = '${account}' UNION ALL SELECT id FROM observations WHERE id LIKE '${account}/%'
     UNION ALL SELECT account FROM usage_daily WHERE account = '${account}'`,
  )
  return [
    ...own.filter((table) => table !== 'deletion'),
    ...objects.flat(),
    ...(await resultsOf(caller)),
    ...(await listTablesWithRows(outboxOf(caller))),
    ...inDatabase,
  ]
}
