// Account settings, as configured by the operator. Until then, the deployment's defaults apply.

import type { Limits } from '../config/limits.ts'
import { DEFAULT_RETENTION_DAYS, type RetentionDays } from '../results/retention.ts'

export const SETTINGS_SCHEMA = `
  CREATE TABLE IF NOT EXISTS settings (
    id INTEGER PRIMARY KEY CHECK (id = 1), limits TEXT, prepaid INTEGER NOT NULL, stripe_customer TEXT,
    retention_days INTEGER NOT NULL, prompt_metadata INTEGER NOT NULL DEFAULT 1) STRICT;`

export type AccountSettings = {
  limits: Limits
  /** Whether the balance must cover the price of a job. */
  prepaid: boolean
  /** The Stripe customer for usage reports. If null, nothing is reported. */
  stripe_customer: string | null
  /** The retention period of images. */
  retention_days: RetentionDays
  /** Whether image files carry their prompts as metadata. */
  prompt_metadata: boolean
}

/** Omitted limits are unchanged. */
export type SettingsChange = Partial<Omit<AccountSettings, 'limits'> & { limits: Partial<Limits> }>

type Row = Omit<AccountSettings, 'limits' | 'prepaid' | 'prompt_metadata'> & {
  limits: string
  prepaid: number
  prompt_metadata: number
}

const DEFAULTS = {
  ...{ prepaid: false, stripe_customer: null, retention_days: DEFAULT_RETENTION_DAYS, prompt_metadata: true },
} satisfies Omit<AccountSettings, 'limits'>

/** Returns the effective settings. `defaultLimits` is called for an account without its own. */
export function settingsOf(sql: SqlStorage, defaultLimits: () => Limits): AccountSettings {
  const [row] = sql.exec<Row>('SELECT limits, prepaid, stripe_customer, retention_days, prompt_metadata FROM settings')
  if (!row) return { ...DEFAULTS, limits: defaultLimits() }
  const [prepaid, prompt_metadata] = [row.prepaid === 1, row.prompt_metadata === 1]
  return { ...row, limits: JSON.parse(row.limits), prepaid, prompt_metadata }
}

export function saveSettings(sql: SqlStorage, settings: AccountSettings): AccountSettings {
  const { limits, prepaid, stripe_customer, retention_days, prompt_metadata } = settings
  const values = [JSON.stringify(limits), Number(prepaid), stripe_customer, retention_days, Number(prompt_metadata)]
  sql.exec('INSERT OR REPLACE INTO settings VALUES (1, ?, ?, ?, ?, ?)', ...values)
  return settings
}
