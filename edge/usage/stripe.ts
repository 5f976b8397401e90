// Stripe meter events: usage as Stripe bills it. https://docs.stripe.com/api/billing/meter-event/create
import type { UsageRecord } from './record.ts'

const METER_EVENTS = 'https://api.stripe.com/v1/billing/meter_events'
/** The `event_name` of Stripe's meter. Its value is in micro-dollars. */
const METER_NAME = 'octet_microdollars'
/** Maximum number of characters of a refusal in the log. */
const LOGGED = 500

/** Stripe refused a meter event. `final`: permanently. */
export class StripeRefused extends Error {
  override name = 'StripeRefused' as const
  readonly final: boolean
  constructor(status: number, text: string) {
    super(`Stripe answers ${status}: ${text}`)
    this.final = status >= 400 && status < 500 && status !== 401 && status !== 403 && status !== 409 && status !== 429
  }
}

/**
 * Reports one capture. `identifier` is the ledger id, by which Stripe deduplicates events for at least 24 hours; after that, the ledger's
 * own mark prevents a duplicate. Throws StripeRefused.
 */
export async function reportUsage(
  secretKey: string,
  record: Pick<UsageRecord, 'id' | 'charged' | 'settled'>,
  customer: string,
) {
  const body = new URLSearchParams({
    event_name: METER_NAME,
    identifier: record.id,
    timestamp: String(Math.floor(record.settled / 1000)),
    'payload[stripe_customer_id]': customer,
    'payload[value]': String(record.charged),
  })
  const response = await fetch(METER_EVENTS, {
    method: 'POST',
    headers: { authorization: `Bearer ${secretKey}`, 'idempotency-key': record.id },
    body,
    signal: AbortSignal.timeout(10_000),
  })
  // Only the status counts: a truncated body must not change the outcome.
  if (!response.ok) throw new StripeRefused(response.status, await readStart(response))
  response.body?.cancel().catch(() => {})
}

/** The start of a body, for the log. Empty if unreadable. */
async function readStart(response: Response): Promise<string> {
  try {
    return (await response.text()).slice(0, LOGGED)
  } catch {
    return ''
  }
}
