// The consumer of `octet-usage`: writes settled jobs and their measurements to D1, and reports captures to Stripe if configured.

import { configOf } from '../config.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { log } from '../platform/log.ts'
import type { UsageRecord } from './record.ts'
import { reportUsage, StripeRefused } from './stripe.ts'

const INSERT_USAGE = `INSERT INTO usage_ledger
  (id, account, job, key_id, tier, state, reserved_amount, charged, reserved, settled, stripe_customer)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`
const INSERT_OBSERVATION = `INSERT INTO observations
  (id, endpoint, model, tier, created, finished, megapixel_steps, waited, load, run)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`

const USAGE_QUEUE = 'octet-usage'
/** Maximum number of attempts for a message. The account sends its rows again later; see usage_seconds in recovery.ts. */
const ATTEMPTS = 8
const LONGEST_DELAY_SECONDS = 3600

type UsageMessage = Message<UsageRecord>

function insertUsage(db: D1Database, record: UsageRecord): D1PreparedStatement {
  const { id, account, job, key_id, tier, state, reserved_amount, charged, reserved, settled } = record
  const money = [reserved_amount, charged, reserved, settled, record.stripe_customer]
  return db.prepare(INSERT_USAGE).bind(id, account, job, key_id, tier, state, ...money)
}

function insertRows(db: D1Database, record: UsageRecord): D1PreparedStatement[] {
  const usage = insertUsage(db, record)
  if (!record.observed) return [usage]
  const { endpoint, model, tier, created, finished, megapixel_steps, waited, load, run } = record.observed
  const measurements = [created, finished, megapixel_steps, waited, load, run]
  return [usage, db.prepare(INSERT_OBSERVATION).bind(record.id, endpoint, model, tier, ...measurements)]
}

/** Writes the rows of one record, or only its usage if the observation cannot be written. Throws if the usage cannot be written. */
async function writeRecord(db: D1Database, record: UsageRecord): Promise<void> {
  try {
    await db.batch(insertRows(db, record))
  } catch (cause) {
    if (!record?.observed) throw cause
    await db.batch([insertUsage(db, record)])
    log('error', 'an observation could not be written and was omitted', {
      account: record.account,
      job: record.job,
      cause,
    })
  }
}

/** Logs a problem and schedules a retry with backoff. After the last attempt the message is acknowledged, and the account sends it again. */
function retryLater(message: UsageMessage, problem: string, cause: unknown): void {
  const { attempts, body } = message
  const last = attempts >= ATTEMPTS
  const names = { message_id: message.id, account: body?.account ?? null, job: body?.job ?? null }
  log('error', problem, { ...names, attempts, next: last ? 'the account sends it again' : 'retry', cause })
  if (last) message.ack()
  else message.retry({ delaySeconds: Math.min(LONGEST_DELAY_SECONDS, 30 * 2 ** attempts) })
}

async function runOrRetry(message: UsageMessage, problem: string, work: () => Promise<void>): Promise<boolean> {
  try {
    await work()
    return true
  } catch (cause) {
    retryLater(message, problem, cause)
    return false
  }
}

/** Writes all records in one transaction, or each in its own if that fails. Returns the messages with written usage. */
async function writeAll(db: D1Database, messages: readonly UsageMessage[]): Promise<readonly UsageMessage[]> {
  try {
    await db.batch(messages.flatMap(({ body }) => insertRows(db, body)))
    return messages
  } catch {
    const written = await Promise.all(
      messages.map((each) => runOrRetry(each, 'usage could not be written', () => writeRecord(db, each.body))),
    )
    return messages.filter((_, index) => written[index])
  }
}

/** The `queue` handler. Throws for an unknown queue, so that its messages are retained. */
export async function queue(batch: MessageBatch, env: Env): Promise<void> {
  if (batch.queue !== USAGE_QUEUE) throw new Error(`the queue ${batch.queue} has no consumer`)
  await consumeUsage(batch as MessageBatch<UsageRecord>, env)
}

/**
 * Writes a batch to D1, then reports it to Stripe. A failed message is retried individually; writes are idempotent. Each account gets a
 * confirmation of its exported rows and sends unconfirmed rows again.
 */
export async function consumeUsage(batch: MessageBatch<UsageRecord>, env: Env): Promise<void> {
  if (batch.messages.length === 0) return
  const arrived: UsageRecord[] = []
  for (const message of await writeAll(env.DB, batch.messages)) {
    const { body } = message
    if (!(await runOrRetry(message, 'usage could not be reported to Stripe yet', () => report(env, body)))) continue
    arrived.push(body)
    message.ack()
  }
  await confirm(env, arrived)
}

/** Confirms the exported jobs to each account. If a confirmation fails, the account sends the rows again, which has no effect. */
async function confirm(env: Env, arrived: readonly UsageRecord[]): Promise<void> {
  const byAccount = Map.groupBy(arrived, ({ account }) => account)
  const confirmations = [...byAccount].map(async ([account, records]) => {
    try {
      await objectOf(env.ACCOUNT, account).exported(records.map(({ job }) => job))
    } catch (cause) {
      log('warn', 'exported usage could not be confirmed to its account', { account, cause })
    }
  })
  await Promise.all(confirmations)
}

/** Reports a capture to Stripe unless it is already reported. Does nothing without STRIPE_SECRET_KEY. */
async function report(env: Env, record: UsageRecord): Promise<void> {
  const { DB } = env
  const { stripeKey } = configOf(env)
  if (!stripeKey || record.stripe_customer === null || record.charged === 0) return
  const row = await DB.prepare('SELECT reported FROM usage_ledger WHERE id = ?')
    .bind(record.id)
    .first<{ reported: number | null }>()
  if (row?.reported) return
  try {
    await reportUsage(stripeKey, record, record.stripe_customer)
  } catch (cause) {
    if (!(cause instanceof StripeRefused && cause.final)) throw cause
    log('error', 'Stripe rejected usage permanently; it stays unreported', { job: record.job, cause })
    return
  }
  await DB.prepare('UPDATE usage_ledger SET reported = ? WHERE id = ?').bind(Date.now(), record.id).run()
}
