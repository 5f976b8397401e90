// How long results are kept, and where they lie for that.

/** Days for which an account's images may be kept. R2's lifecycle has one rule for each, because a rule goes by the key's beginning. */
export const RETENTION_DAYS = [1, 7, 30, 90, 365] as const
export const DEFAULT_RETENTION_DAYS = 30
export type RetentionDays = (typeof RETENTION_DAYS)[number]

/** Where the images of an account's jobs lie. The rules are in infra/results-lifecycle.json. */
export const resultPrefix = (days: RetentionDays, account: string) => `results/${days}d/${account}/`
