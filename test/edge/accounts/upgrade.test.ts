// Upgrade of accounts and jobs stored by an earlier release.
import { runInDurableObject } from 'cloudflare:test'
import { afterEach, beforeEach, test, vi } from 'vitest'
import type { JobRecord } from '../../../edge/jobs/record.ts'
import { DEFAULT_RETENTION_DAYS, RECORD_DAYS } from '../../../edge/results/retention.ts'
import { accountOf } from '../support/admissions.ts'
import { type Caller, ledgerOf, newCaller, readJob, send } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { jobOf, reset, stopsHalfWay, waitForEnd } from '../support/jobs.ts'

const BODY = { prompt: 'a cat', size: '64x64' }

let caller: Caller
beforeEach(async () => {
  caller = await newCaller()
})
afterEach(() => vi.restoreAllMocks())

/** SQL that converts the current tables to the schema of the first release and keeps their rows. */
const FIRST_TABLES = `
  CREATE TABLE first_keys (
    id TEXT PRIMARY KEY, lineage TEXT NOT NULL, secret_hash TEXT NOT NULL, label TEXT NOT NULL, scopes TEXT NOT NULL,
    limits TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER, revoked INTEGER) STRICT;
  INSERT INTO first_keys SELECT id, lineage, secret_hash, label, scopes, limits, created, expires, revoked FROM keys;
  DROP TABLE keys; ALTER TABLE first_keys RENAME TO keys;
  CREATE TABLE first_ledger (
    job TEXT PRIMARY KEY, key_id TEXT NOT NULL, meters TEXT NOT NULL, tier TEXT NOT NULL, amount INTEGER NOT NULL,
    charged INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL, reserved INTEGER NOT NULL, settled INTEGER,
    fingerprint TEXT, observed TEXT, orphan INTEGER NOT NULL DEFAULT 0) STRICT;
  INSERT INTO first_ledger SELECT job, key_id, meters, tier, amount, charged, state, reserved, settled, fingerprint, observed, 0
    FROM ledger;
  DROP TABLE ledger; ALTER TABLE first_ledger RENAME TO ledger;
  CREATE INDEX ledger_open ON ledger (reserved) WHERE state = 'reserved';
  CREATE INDEX ledger_in_flight ON ledger (fingerprint) WHERE state = 'reserved' AND fingerprint IS NOT NULL;
  CREATE TABLE first_idempotency (
    name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, job TEXT NOT NULL, created INTEGER NOT NULL) STRICT;
  INSERT INTO first_idempotency SELECT name, fingerprint, job, created FROM idempotency JOIN ledger USING (job);
  DROP TABLE idempotency; ALTER TABLE first_idempotency RENAME TO idempotency;
  CREATE INDEX idempotency_by_time ON idempotency (created);
  CREATE INDEX idempotency_by_job ON idempotency (job);
  DROP TABLE folded; DROP TABLE deletion;`

/** Job record fields missing from the first release. */
const ADDED_FIELDS = ['token', 'basePrice', 'digest', 'retentionDays', 'granted', 'faults', 'nextAt']

async function downgrade({ id }: { id: string }): Promise<void> {
  await runInDurableObject(accountOf(caller), (_, { storage }) => void storage.sql.exec(FIRST_TABLES))
  await runInDurableObject(jobOf({ id }), (_, { storage }) => {
    const fields = Object.entries(storage.kv.get<JobRecord>('job')!)
    storage.kv.put('job', Object.fromEntries(fields.filter(([name]) => !ADDED_FIELDS.includes(name))))
  })
  await Promise.all([reset(accountOf(caller)), reset(jobOf({ id }))])
}

const alarmOf = ({ id }: { id: string }) => runInDurableObject(jobOf({ id }), (_, { storage }) => storage.getAlarm())

const submit = async (key = 'the first') =>
  readJob(await send('POST', '/v1/jobs', caller, BODY, { 'idempotency-key': key }))

test('a job in progress during the upgrade succeeds, is charged once, and is found by its Idempotency-Key', async ({
  expect,
}) => {
  fakeGpu(stopsHalfWay, works)
  const job = await submit()
  await vi.waitFor(async () => expect((await jobOf(job).view())?.images).toHaveLength(1))
  await downgrade(job)
  const { state, price, faults, finished } = await waitForEnd(job, 30_000)
  expect([state, faults]).toEqual(['succeeded', 0])
  const deleteAt = finished! + (DEFAULT_RETENTION_DAYS + RECORD_DAYS) * 24 * 3600_000
  await vi.waitFor(async () => expect(await alarmOf(job)).toBe(deleteAt))
  expect((await submit()).id).toBe(job.id)
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: price })
  const { kept, summed } = await accountOf(caller).audit()
  expect(kept).toEqual(summed)
})

test('keys, charges and job lists of an earlier release are preserved, and new jobs are admitted', async ({
  expect,
}) => {
  fakeGpu(works, works)
  const job = await submit()
  const { price } = await waitForEnd(job)
  await downgrade(job)
  await waitForEnd(await submit('the second'))
  expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 2 * price })
  expect((await send('GET', '/v1/jobs', caller)).status).toBe(200)
  expect((await send('GET', `/v1/jobs/${job.id}`, caller)).status).toBe(200)
  const { kept, summed } = await accountOf(caller).audit()
  expect(kept).toEqual(summed)
})
