// What the operator set for an account. Until then the deployment's defaults hold.
import { type Limits, readAccountLimits } from './limits.ts'
import { DEFAULT_RETENTION_DAYS, type RetentionDays } from './retention.ts'

export const SETTINGS_SCHEMA = `
  CREATE TABLE IF NOT EXISTS settings (
    id INTEGER PRIMARY KEY CHECK (id = 1), limits TEXT, prepaid INTEGER NOT NULL, stripe_customer TEXT,
    retention_days INTEGER NOT NULL) STRICT;`

export type AccountSettings = {
  limits: Limits
  /** Whether a job needs a balance that covers its price. */
  prepaid: boolean
  /** The customer that Stripe is told of; null reports nothing. */
  stripe_customer: string | null
  /** How long images are kept. */
  retention_days: RetentionDays
}

/** Limits that are not named stay. */
export type SettingsChange = Partial<Omit<AccountSettings, 'limits'> & { limits: Partial<Limits> }>

type Row = { limits: string; prepaid: number; stripe_customer: string | null; retention_days: RetentionDays }

/** The settings that hold. `defaults` is OCTET_ACCOUNT_LIMITS. */
export function settingsOf(sql: SqlStorage, defaults: unknown): AccountSettings {
  const [row] = sql.exec<Row>('SELECT limits, prepaid, stripe_customer, retention_days FROM settings')
  if (row) return { ...row, limits: JSON.parse(row.limits), prepaid: row.prepaid === 1 }
  const limits = readAccountLimits(defaults)
  return { limits, prepaid: false, stripe_customer: null, retention_days: DEFAULT_RETENTION_DAYS }
}

export function saveSettings(sql: SqlStorage, settings: AccountSettings): AccountSettings {
  const { limits, prepaid, stripe_customer, retention_days } = settings
  const values = [JSON.stringify(limits), Number(prepaid), stripe_customer, retention_days]
  sql.exec('INSERT OR REPLACE INTO settings VALUES (1, ?, ?, ?, ?)', ...values)
  return settings
}
