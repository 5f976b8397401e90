// Stripe meter events: usage as Stripe bills it. https://docs.stripe.com/api/billing/meter-event/create
import type { UsageRecord } from './account-outbox.ts'

const METER_EVENTS = 'https://api.stripe.com/v1/billing/meter_events'
/** Of `event_name` in Stripe's meter; its value is micro-dollars. */
export const METER_NAME = 'octet_microdollars'
/** Characters of a refusal that are logged. */
const LOGGED = 500

/** Stripe did not take a meter event. `final`: it never will. */
export class StripeRefused extends Error {
  override name = 'StripeRefused' as const
  readonly final: boolean
  constructor(status: number, text: string) {
    super(`Stripe answers ${status}: ${text}`)
    this.final = status >= 400 && status < 500 && status !== 401 && status !== 403 && status !== 409 && status !== 429
  }
}

/**
 * Reports one capture. `identifier` is the ledger id, so that Stripe counts a repeat once for at least a day; longer than that the
 * ledger's own mark prevents it. Throws StripeRefused.
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
  // The status alone decides: a body that breaks off must not turn a refusal, or a success, into something else.
  if (!response.ok) throw new StripeRefused(response.status, await readStart(response))
  response.body?.cancel().catch(() => {})
}

/** The start of a body, for the log. Empty when it cannot be read. */
async function readStart(response: Response): Promise<string> {
  try {
    return (await response.text()).slice(0, LOGGED)
  } catch {
    return ''
  }
}
