// Account settings, as configured by the operator. Until then, the deployment's defaults apply.

import type { Limits } from '../config/limits.ts'
import { DEFAULT_RETENTION_DAYS, type RetentionDays } from '../results/retention.ts'

export const SETTINGS_SCHEMA = `
  CREATE TABLE IF NOT EXISTS settings (
    id INTEGER PRIMARY KEY CHECK (id = 1), limits TEXT, prepaid INTEGER NOT NULL, stripe_customer TEXT,
    retention_days INTEGER NOT NULL) STRICT;`

export type AccountSettings = {
  limits: Limits
  /** Whether the balance must cover the price of a job. */
  prepaid: boolean
  /** The Stripe customer for usage reports. If null, nothing is reported. */
  stripe_customer: string | null
  /** The retention period of images. */
  retention_days: RetentionDays
}

/** Omitted limits are unchanged. */
export type SettingsChange = Partial<Omit<AccountSettings, 'limits'> & { limits: Partial<Limits> }>

type Row = { limits: string; prepaid: number; stripe_customer: string | null; retention_days: RetentionDays }

/** Returns the effective settings. `defaultLimits` is called for an account without its own. */
export function settingsOf(sql: SqlStorage, defaultLimits: () => Limits): AccountSettings {
  const [row] = sql.exec<Row>('SELECT limits, prepaid, stripe_customer, retention_days FROM settings')
  if (row) return { ...row, limits: JSON.parse(row.limits), prepaid: row.prepaid === 1 }
  return { limits: defaultLimits(), prepaid: false, stripe_customer: null, retention_days: DEFAULT_RETENTION_DAYS }
}

export function saveSettings(sql: SqlStorage, settings: AccountSettings): AccountSettings {
  const { limits, prepaid, stripe_customer, retention_days } = settings
  const values = [JSON.stringify(limits), Number(prepaid), stripe_customer, retention_days]
  sql.exec('INSERT OR REPLACE INTO settings VALUES (1, ?, ?, ?, ?)', ...values)
  return settings
}
