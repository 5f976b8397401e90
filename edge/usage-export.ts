// The consumer of `octet-usage`: settled jobs to D1, what they took to the forecasts, and captures to Stripe where it is configured.
import type { UsageRecord } from './account-outbox.ts'
import type { Env } from './env.ts'
import { log } from './log.ts'
import { reportUsage, StripeRefused } from './stripe.ts'

const INSERT_USAGE = `INSERT INTO usage_ledger
  (id, account, job, key_id, tier, state, reserved_amount, charged, reserved, settled, stripe_customer)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`
const INSERT_OBSERVATION = `INSERT INTO observations
  (id, endpoint, model, tier, created, finished, megapixel_steps, waited, load, run)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`

function statements(db: D1Database, record: UsageRecord): D1PreparedStatement[] {
  const { id, account, job, key_id, tier, state, reserved_amount, charged, reserved, settled, observed } = record
  const money = [reserved_amount, charged, reserved, settled, record.stripe_customer]
  const usage = db.prepare(INSERT_USAGE).bind(id, account, job, key_id, tier, state, ...money)
  if (!observed) return [usage]
  const { endpoint, model, created, finished, megapixel_steps, waited, load, run } = observed
  const took = [created, finished, megapixel_steps, waited, load, run]
  return [usage, db.prepare(INSERT_OBSERVATION).bind(id, endpoint, model, observed.tier, ...took)]
}

/**
 * Writes a batch to D1 in one transaction, then reports it. What Stripe did not take is delivered again; D1 keeps one row of each. The
 * accounts are told what has arrived: they send again what they hear nothing of.
 */
export async function consumeUsage(batch: MessageBatch<UsageRecord>, env: Env): Promise<void> {
  const rows = batch.messages.flatMap(({ body }) => statements(env.DB, body))
  if (rows.length > 0) await env.DB.batch(rows)
  const arrived: UsageRecord[] = []
  for (const message of batch.messages) {
    try {
      await report(env, message.body)
      arrived.push(message.body)
      message.ack()
    } catch (cause) {
      log('error', 'usage could not be reported to Stripe yet', { job: message.body.job, cause })
      message.retry({ delaySeconds: Math.min(3600, 30 * 2 ** message.attempts) })
    }
  }
  await confirm(env, arrived)
}

/** Tells each account which of its jobs have arrived. An account that does not hear it sends them once more, which does no harm. */
async function confirm(env: Env, arrived: readonly UsageRecord[]): Promise<void> {
  const byAccount = Map.groupBy(arrived, ({ account }) => account)
  const told = [...byAccount].map(async ([account, records]) => {
    try {
      await env.ACCOUNT.getByName(account).exported(records.map(({ job }) => job))
    } catch (cause) {
      log('warn', 'an account did not hear that its usage arrived', { account, cause })
    }
  })
  await Promise.all(told)
}

/** Tells Stripe of a capture unless it was told before. Nothing happens without STRIPE_SECRET_KEY. */
async function report({ DB, STRIPE_SECRET_KEY }: Env, record: UsageRecord): Promise<void> {
  if (!STRIPE_SECRET_KEY || record.stripe_customer === null || record.charged === 0) return
  const row = await DB.prepare('SELECT reported FROM usage_ledger WHERE id = ?')
    .bind(record.id)
    .first<{ reported: number | null }>()
  if (row?.reported) return
  try {
    await reportUsage(STRIPE_SECRET_KEY, record, record.stripe_customer)
  } catch (cause) {
    if (!(cause instanceof StripeRefused && cause.final)) throw cause
    log('error', 'Stripe refused usage for good; it stays unreported', { job: record.job, cause })
    return
  }
  await DB.prepare('UPDATE usage_ledger SET reported = ? WHERE id = ?').bind(Date.now(), record.id).run()
}
