// Retention of D1 rows: old rows are deleted or folded, and sums do not change.

import { createExecutionContext, createScheduledController, waitOnExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import worker from '../../../edge/index.ts'
import { readOperatorStatus } from '../../../edge/operations/status.ts'
import { OBSERVATION_DAYS, USAGE_DAYS } from '../../../edge/results/retention.ts'
import { applyRetention, DELETED_ACCOUNT, eraseUsage } from '../../../edge/usage/database-retention.ts'
import { createEnvWith } from '../support/config.ts'

const DAY_MS = 24 * 3600_000
const TABLES = ['usage_ledger', 'usage_daily', 'observations']

beforeEach(() => env.DB.batch(TABLES.map((table) => env.DB.prepare(`DELETE FROM ${table}`))))
afterEach(() => vi.restoreAllMocks())

type Usage = { account: string; tier: string; daysAgo: number; charged: number }

/** Inserts settled jobs, numbered from `first`. */
async function insertUsage(usage: Usage[], first = 0): Promise<void> {
  const statement = env.DB.prepare(
    `INSERT INTO usage_ledger (id, account, job, key_id, tier, state, reserved_amount, charged, reserved, settled)
     VALUES (?, ?, ?, 'k', ?, ?, 100, ?, ?, ?)`,
  )
  const rows = usage.map(({ account, tier, daysAgo, charged }, k) => {
    const settled = Date.now() - daysAgo * DAY_MS
    const job = `job_${first + k}`
    const state = charged > 0 ? 'captured' : 'released'
    return statement.bind(`${account}/${job}`, account, job, tier, state, charged, settled, settled)
  })
  if (rows.length > 0) await env.DB.batch(rows)
}

/** Inserts an observation of an account's job for each age in `daysAgo`. */
const observe = (account: string, ...daysAgo: number[]) =>
  env.DB.batch(
    daysAgo.map((days, k) =>
      env.DB.prepare("INSERT INTO observations VALUES (?1, 'default', 'tiny', 'fp8', ?2, ?2, 1, 0.5, 0, 2.5)").bind(
        `${account}/job_${k}`,
        Date.now() - days * DAY_MS,
      ),
    ),
  )

const query = async (sql: string) => (await env.DB.prepare(sql).all()).results
const count = async (table: string) => (await query(`SELECT count(*) AS n FROM ${table}`))[0]!.n
/** Returns usage sums per account, day and tier over detailed and folded rows. */
const queryTotals = () => query('SELECT * FROM usage_totals ORDER BY account, day, tier')
const querySums = () =>
  query('SELECT day, tier, sum(jobs), sum(captured), sum(charged) FROM usage_totals GROUP BY 1, 2')

const OLD = USAGE_DAYS + 1

describe('the cron handler', () => {
  const runCron = async (variables: Record<string, unknown> = {}) => {
    const ctx = createExecutionContext()
    const controller = createScheduledController({ scheduledTime: new Date() })
    await worker.scheduled(controller, createEnvWith(variables), ctx).finally(() => waitOnExecutionContext(ctx))
  }

  test('deletes old rows even when OCTET_PREWARM is malformed', async ({ expect }) => {
    await observe('acme', OBSERVATION_DAYS + 1)
    await expect(runCron({ OCTET_PREWARM: { idle_seconds: 'many' } })).rejects.toThrow(
      'OCTET_PREWARM.idle_seconds is "many"',
    )
    expect(await count('observations')).toBe(0)
  })

  test('deletes observations after 30 days, when forecasts no longer use them', async ({ expect }) => {
    await observe('acme', 0, 7, OBSERVATION_DAYS - 1, OBSERVATION_DAYS + 1, 1000)
    await runCron()
    expect(await query('SELECT id FROM observations ORDER BY id')).toEqual([
      { id: 'acme/job_0' },
      { id: 'acme/job_1' },
      { id: 'acme/job_2' },
    ])
  })

  test('folds usage after 400 days without changing daily sums or the sums of today', async ({ expect }) => {
    const days = [0, 1, USAGE_DAYS - 1, OLD, OLD, OLD + 1]
    await insertUsage(
      days.flatMap((daysAgo) => [10, 0].map((charged) => ({ account: 'acme', tier: 'fp8', daysAgo, charged }))),
    )
    await insertUsage([{ account: 'other', tier: 'fp16', daysAgo: OLD, charged: 7 }], 100)
    const before = { totals: await queryTotals(), status: await readOperatorStatus(env) }
    await runCron()
    expect({ totals: await queryTotals(), status: await readOperatorStatus(env) }).toEqual(before)
    expect(before.status.today).toMatchObject({ jobs: 2, captured: 1, microdollars: 10 })
    expect(await count('usage_ledger')).toBe(6)
    expect(await query("SELECT jobs, captured, charged FROM usage_daily WHERE account = 'acme' ORDER BY day")).toEqual([
      { jobs: 2, captured: 1, charged: 10 },
      { jobs: 4, captured: 2, charged: 20 },
    ])
    await runCron()
    expect(await queryTotals()).toEqual(before.totals)
  })

  test('processes thousands of rows in batches', async ({ expect }) => {
    await env.DB.prepare(
      `WITH RECURSIVE counter (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < 2500)
       INSERT INTO usage_ledger SELECT 'acme/' || n, 'acme', n, 'k', 'fp8', 'captured', 9, 3, 0, n * 1000, NULL, NULL FROM counter`,
    ).run()
    const batch = vi.spyOn(env.DB, 'batch')
    await runCron()
    expect(batch).toHaveBeenCalledTimes(3)
    expect([await count('usage_ledger'), await querySums()]).toEqual([
      0,
      [{ day: '1970-01-01', tier: 'fp8', 'sum(jobs)': 2500, 'sum(captured)': 2500, 'sum(charged)': 7500 }],
    ])
  })

  test('folds and deletes atomically: after a failure nothing has changed, and the next run completes', async ({
    expect,
  }) => {
    vi.spyOn(console, 'error').mockImplementation(() => {})
    await insertUsage([{ account: 'acme', tier: 'fp8', daysAgo: OLD, charged: 10 }])
    const before = await queryTotals()
    // The trigger makes the second statement of the transaction fail.
    await env.DB.prepare(
      "CREATE TRIGGER broken BEFORE DELETE ON usage_ledger BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    ).run()
    await runCron()
    expect([await count('usage_ledger'), await count('usage_daily'), await queryTotals()]).toEqual([1, 0, before])
    await env.DB.prepare('DROP TRIGGER broken').run()
    await runCron()
    expect([await count('usage_ledger'), await count('usage_daily'), await queryTotals()]).toEqual([0, 1, before])
  })
})

const usage = fc.record({
  account: fc.constantFrom('a', 'b', 'a0', 'a-b'),
  tier: fc.constantFrom('fp8', 'fp16'),
  daysAgo: fc.constantFrom(0, 1, USAGE_DAYS - 1, OLD, OLD, OLD + 30),
  charged: fc.nat(5),
})
type Step = { do: 'insert'; usage: Usage[] } | { do: 'tidy' | 'lose the reply' } | { do: 'delete'; account: string }
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant('insert' as const), usage: fc.array(usage, { minLength: 1, maxLength: 5 }) }),
  fc.record({ do: fc.constantFrom('tidy' as const, 'lose the reply' as const) }),
  fc.record({ do: fc.constant('delete' as const), account: fc.constantFrom('a', 'b') }),
)

test('after any sequence of exports, foldings and account deletions, the sums by day and tier cover all jobs', {
  timeout: 60_000,
}, async ({ expect }) => {
  vi.spyOn(console, 'error').mockImplementation(() => {})
  const property = fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 12 }), async (sequence) => {
    await env.DB.batch(TABLES.map((table) => env.DB.prepare(`DELETE FROM ${table}`)))
    const model = new Map<string, number[]>()
    let [inserted, deleted] = [0, new Set<string>()]
    for (const each of sequence) {
      if (each.do === 'insert') {
        await insertUsage(each.usage, inserted)
        inserted += each.usage.length
        for (const { daysAgo, tier, charged, account } of each.usage) {
          deleted.delete(account)
          const name = `${new Date(Date.now() - daysAgo * DAY_MS).toISOString().slice(0, 10)} ${tier}`
          const [jobs, captured, money] = model.get(name) ?? [0, 0, 0]
          model.set(name, [jobs! + 1, captured! + Number(charged > 0), money! + charged])
        }
      } else if (each.do === 'delete') {
        expect(await eraseUsage(env.DB, each.account)).toBe(true)
        deleted = new Set([...deleted, each.account])
      } else {
        const { batch } = env.DB
        const failBatch = async (statements: D1PreparedStatement[]) => {
          await batch.call(env.DB, statements)
          throw new Error('the worker is terminated')
        }
        const dying = {
          DB: new Proxy(env.DB, { get: (db, name) => (name === 'batch' ? failBatch : Reflect.get(db, name).bind(db)) }),
        }
        await applyRetention(each.do === 'tidy' ? env : dying)
      }
    }
    const found = await querySums()
    expect(new Map(found.map(({ day, tier, ...values }) => [`${day} ${tier}`, Object.values(values)]))).toEqual(model)
    const accounts = new Set((await queryTotals()).map(({ account }) => account))
    for (const account of deleted) expect(accounts.has(account)).toBe(false)
  })
  await fc.assert(property, { numRuns: 60 })
})

test('only the rows of the deleted account are erased, and its sums become anonymous', async ({ expect }) => {
  const accounts = ['acme', 'acme-2', 'acme0', 'acm']
  await insertUsage(
    accounts.flatMap((account) => [0, OLD].map((daysAgo) => ({ account, tier: 'fp8', daysAgo, charged: 10 }))),
  )
  for (const account of accounts) await observe(account, 0, 1)
  await applyRetention(env)
  const before = await querySums()
  for (const _ of ['first', 'again']) {
    expect(await eraseUsage(env.DB, 'acme')).toBe(true)
    expect(await querySums()).toEqual(before)
    expect(new Set((await queryTotals()).map(({ account }) => account))).toEqual(
      new Set([DELETED_ACCOUNT, 'acm', 'acme-2', 'acme0']),
    )
    expect(await count('observations')).toBe(6)
    expect(await query("SELECT id FROM observations WHERE id LIKE 'acme/%'")).toEqual([])
  }
})

test('old rows are found through an index', async ({ expect }) => {
  const plans: string[] = []
  const { prepare } = env.DB
  const statements = new Set<string>()
  const watching = {
    DB: new Proxy(env.DB, {
      get: (db, name) => {
        if (name !== 'prepare') return Reflect.get(db, name).bind(db)
        return (sql: string) => {
          statements.add(sql)
          return prepare.call(db, sql)
        }
      },
    }),
  }
  await applyRetention(watching)
  await eraseUsage(watching.DB, 'acme')
  for (const sql of statements) {
    const values = Array.from(sql.matchAll(/\?/g), () => 1)
    const { results } = await env.DB.prepare(`EXPLAIN QUERY PLAN ${sql}`)
      .bind(...values)
      .all<{ detail: string }>()
    plans.push(...results.map(({ detail }) => `${detail}: ${sql}`))
  }
  expect(plans.length).toBeGreaterThan(8)
  expect(plans.filter((plan) => /^SCAN (usage_ledger|usage_daily|observations)\b/.test(plan))).toEqual([])
})
