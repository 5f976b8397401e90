import type { Tier } from '#contract'
import type { Observation } from '../routing/observation.ts'

/** The outcome of a reservation. */
export type Outcome = 'captured' | 'released'

/** The exported record of a settled job. `id` is the ledger id, `<account>/<job>`, and is the same on every delivery. */
export type UsageRecord = {
  id: string
  account: string
  job: string
  key_id: string
  tier: Tier
  state: Outcome
  reserved_amount: number
  charged: number
  reserved: number
  settled: number
  stripe_customer: string | null
  observed: Observation | null
}

/** Amounts are micro-dollars, times Unix milliseconds. `charged` is the captured part of the reserved `amount`. */
export type LedgerEntry = {
  job: string
  key_id: string
  tier: Tier
  amount: number
  charged: number
  state: 'reserved' | Outcome
  reserved: number
  settled: number | null
}
