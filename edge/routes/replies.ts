// The replies of the routes for keys and accounts, shared with the tools in infra/. Times are Unix seconds, amounts micro-dollars.
import type { KeyInfo } from '../accounts/keys/key-info.ts'
import type { Limits } from '../config/limits.ts'
import type { RetentionDays } from '../results/retention.ts'

/** A key. In lists, `creator_revoked` states whether an ancestor was revoked. */
export type KeyReply = KeyInfo & { creator_revoked?: boolean }
/** The usage of a key's lineage. */
export type KeyUse = { spent_microdollars: number; reserved_microdollars: number; open_jobs: number }

export type MoneyReply = {
  prepaid: boolean
  balance_microdollars: number
  credited_microdollars: number
  captured_microdollars: number
  reserved_microdollars: number
  open_jobs: number
}
/** The state of an account's deletion. The lifetime sums are set once the account's own rows are deleted. */
export type DeletionReply = {
  state: 'deleting' | 'deleted'
  requested: number
  completed: number | null
  step?: string
  continues?: number
  jobs_deleted: number
  jobs?: number
  credited_microdollars?: number
  captured_microdollars?: number
}
export type AccountReply = MoneyReply & {
  account: string
  limits: Limits
  stripe_customer: string | null
  retention_days: RetentionDays
  prompt_metadata: boolean
  deletion: DeletionReply | null
}
