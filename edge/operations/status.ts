// The operator's overview of the deployment: the GPU of every endpoint, and revenue and cost since midnight (UTC).

import { configOf } from '../config.ts'
import { readBudgetReport } from '../gpu/budget.ts'
import { dayOf } from '../gpu/readiness.ts'
import { ApiError } from '../http/errors.ts'
import { objectOf } from '../platform/durable-objects.ts'
import type { OperatorStatus } from './replies.ts'

type SettledSums = { jobs: number; captured: number; microdollars: number }
type RunSums = { images: number; gpu_seconds: number; cold_starts: number }

/** Sums over jobs settled since `since` (Unix milliseconds). */
const SETTLED_SQL = `SELECT count(*) AS jobs, count(CASE WHEN state = 'captured' THEN 1 END) AS captured,
  coalesce(sum(charged), 0) AS microdollars FROM usage_ledger WHERE settled >= ?`
const GPU_TIME_SQL = `SELECT count(*) AS images, coalesce(sum(load + run), 0) AS gpu_seconds,
  count(CASE WHEN load > 0 THEN 1 END) AS cold_starts FROM observations WHERE finished >= ?`

const NOT_MIGRATED =
  'The database DB lacks a table of edge/migrations. Run `npm run deploy`, or `npx wrangler d1 migrations apply DB --remote`.'

/** Errors: internal (with advice, if the database was not migrated). */
async function selectSumsSince(db: D1Database, since: number): Promise<D1Result<SettledSums | RunSums>[]> {
  try {
    return await db.batch<SettledSums | RunSums>([SETTLED_SQL, GPU_TIME_SQL].map((sql) => db.prepare(sql).bind(since)))
  } catch (cause) {
    if (!/no such table/.test(String(cause))) throw cause
    throw new ApiError('internal', NOT_MIGRATED)
  }
}

/**
 * The state of each offered endpoint, and the day's sums. `gpu_dollars` is the time of jobs and prewarming at the price in OCTET_PREWARM. It
 * excludes idle time after jobs, which the host also bills.
 */
export async function readOperatorStatus(env: Env, now = Date.now()): Promise<OperatorStatus> {
  const { offers, endpoints: addresses } = configOf(env).catalog
  const names = [...new Set(offers.flatMap(({ endpoint, fallbacks = [] }) => [endpoint, ...fallbacks]))]
  const reports = names.map(async (name) => ({
    ...{ name, url: addresses[name] },
    ...(await objectOf(env.ENDPOINT, name).report()),
  }))
  const midnight = Date.parse(`${dayOf(now)}T00:00:00Z`)
  const [settled, ran] = await selectSumsSince(env.DB, midnight)
  const { gpu_seconds, ...rest } = ran!.results[0] as RunSums
  const endpoints = await Promise.all(reports)
  const warming = endpoints.reduce((sum, each) => sum + each.spent_today_seconds, 0)
  const { dollars_per_hour } = configOf(env).prewarm
  const today = {
    ...(settled!.results[0] as SettledSums),
    ...{ ...rest, gpu_seconds, warming_seconds: warming },
    gpu_dollars: ((gpu_seconds + warming) / 3600) * dollars_per_hour,
  }
  return { object: 'status', since: midnight / 1000, endpoints, today, gpu_budget: await readBudgetReport(env) }
}
