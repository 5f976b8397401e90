// The replies of the API that the page reads.
import type { JobView } from '../../dialects/definition/public-job.ts'
import type { GpuState } from '../../gpu/readiness.ts'

export type { GpuState, JobView }
export type Route = JobView['route']

/** The fields of an image request. */
export type Fields = {
  prompt: string
  size: string
  seed: number
  n: number
  output_format: 'png' | 'jpeg' | 'webp'
  route?: Route
  negative_prompt?: string
  steps?: number
  guidance_scale?: number
  cache?: 'fast'
  /** Data URLs. */
  image?: string
  mask?: string
  strength?: number
  loras?: LoraChoice[]
}

/** An adapter of a request with its strength. */
export type LoraChoice = { id: string; scale: number }

export type Quote = {
  price_microdollars: number
  route: Route
  tier: string
  model: string
  steps: number
  guidance_scale: number
  size: string
  reason: string
  gpu: GpuState | null
  cold_start: { probability: number; observations: number } | null
  expected_seconds: { p50: number; p95: number } | null
  observations: number
}

export type Offer = { route: Route; tier: string; width: number; height: number; max_pixels: number; max_side: number }
/** An adapter available to the account. `tiers`: compatible tiers of the model. `scale`: default strength. */
export type Lora = { id: string; tiers: string[]; scale: number; trigger_words: string[] }
export type Model = { id: string; octet: Offer[]; octet_loras: Lora[] }

export type Limits = Record<
  'requests_per_minute' | 'concurrent_jobs' | 'daily_microdollars' | 'monthly_microdollars' | 'total_microdollars',
  number | null
>

export type UsageRow = { day: string; key_id: string; tier: string; jobs: number; price_microdollars: number }
export type Usage = {
  account: string
  from: string
  to: string
  data: UsageRow[]
  total_microdollars: number
  prepaid: boolean
  balance_microdollars: number
  reserved_microdollars: number
  open_jobs: number
  limits: Limits
  retention_days: number
  key: { id: string; scopes: string[] }
}

export type Key = {
  id: string
  label: string
  scopes: string[]
  limits: Limits
  created: number
  expires: number | null
  revoked: number | null
}

export type Webhook = {
  id: string
  url: string
  events: string[]
  description: string
  disabled: boolean
  disabled_reason: string | null
}

export type Delivery = {
  event: string
  type: string
  state: 'pending' | 'delivered' | 'exhausted' | 'refused' | 'dropped'
  created: string
  next_attempt: string | null
  url?: string
  attempts: { at: string; status: number | null; error: string | null; milliseconds: number }[]
}
