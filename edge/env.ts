// The worker's configuration: the vars and bindings in wrangler.toml, and secrets from .dev.vars or `wrangler secret put`.
import type { RequestIdVariables } from 'hono/request-id'
import type { AccountDO } from './accounts/account.ts'
import type { KeyInfo } from './accounts/key-table.ts'
import type { Credential } from './auth/keys.ts'
import type { OpenLink } from './auth/links.ts'
import type { WarmDO } from './gpu/warm.ts'
import type { JobDO } from './jobs/job.ts'
import type { UsageRecord } from './usage/outbox.ts'
import type { WebhookDO } from './webhooks/outbox.ts'

export type Env = {
  ACCOUNT: DurableObjectNamespace<AccountDO>
  JOB: DurableObjectNamespace<JobDO>
  WEBHOOK: DurableObjectNamespace<WebhookDO>
  /** One object per endpoint, by endpoint name. */
  WARM: DurableObjectNamespace<WarmDO>
  RESULTS: R2Bucket
  /** Usage and forecasts across accounts. The schema is in migrations/. */
  DB: D1Database
  /** Settled jobs to be exported to D1 and Stripe. */
  USAGE: Queue<UsageRecord>
  OUTER_LIMIT: RateLimit
  /** Limits the requests of a key or browser token; see auth/auth.ts. */
  REQUEST_LIMIT: RateLimit
  /** Limits failed operator logins per client address. */
  OPERATOR_LIMIT: RateLimit
  /** JSON text or a TOML table; see accounts/limits.ts and routing/price.ts. */
  OCTET_ACCOUNT_LIMITS: unknown
  OCTET_PRICES: unknown
  /** JSON text or a TOML table; see platform/recovery.ts. */
  OCTET_RECOVERY: unknown
  /** JSON text or a TOML table; see gpu/warm-policy.ts. */
  OCTET_PREWARM: unknown
  /** Used to report captures as meter events. If unset, nothing is reported. */
  STRIPE_SECRET_KEY?: string
  /** Retry delays of a delivery, in seconds: before attempts 2, 3, … */
  WEBHOOK_RETRY_SECONDS: string
  /** The response timeout of a receiver. */
  WEBHOOK_TIMEOUT_SECONDS: string
  /** How long a receiver's circuit breaker stays open after five consecutive failures. Each failed trial doubles it, up to ten minutes. */
  WEBHOOK_BREAKER_SECONDS: string
  /** The maximum number of replays and test events per minute and account. */
  WEBHOOK_REPLAYS_PER_MINUTE: string
  /** The allowed ports of webhook URLs, separated by commas. */
  WEBHOOK_PORTS: string
  /** Hosts blocked as webhook receivers, including their subdomains. The worker's own host is always blocked. */
  WEBHOOK_BLOCKED_HOSTS: string
  /** "true" allows webhooks to http URLs and to localhost. For development only. */
  WEBHOOK_LOCAL: string
  /** JSON text or a TOML table; see routing/catalogue.ts. */
  OCTET_CATALOGUE: unknown
  GPU_URL: string
  /** Authentication headers for the hosts of the GPU functions, as JSON; see gpu/endpoints.ts. */
  GPU_PROXY_HEADERS?: string
  /** See accounts/slots.ts. */
  GPU_SLOTS: string
  /** Seconds; see gpu/times.ts. */
  GPU_START_SECONDS: string
  GPU_SILENCE_SECONDS: string
  GPU_RUN_SECONDS: string
  GPU_RETRY_SECONDS: string
  GPU_HEDGE_SECONDS: string
  /** `version:secret`, newest first, separated by commas; see auth/keys.ts. */
  KEY_PEPPER: string
  /** The private Ed25519 JWK for signing requests to the GPU function. */
  GPU_SIGNING_KEY: string
  OCTET_ADMIN_TOKEN: string
  /** JSON array of private Ed25519 JWKs, newest first; see results/receipts.ts. */
  RECEIPT_SIGNING_KEYS: string
  /** "true" adds prompts to the log line of each finished job. */
  OCTET_LOG_PROMPTS: string
  /** One point per finished job; see usage/observe.ts. */
  ANALYTICS: AnalyticsEngineDataset
}

/** Variables set by auth/access.ts before a handler runs. */
type Access = {
  /** The caller's credential, on routes that accept a key. */
  credential: Credential
  /** The credential's key, once confirmed by the account. */
  key?: KeyInfo
  /** On /v1/keys: the managing key, or null for the operator. */
  manages: { account: string; keyId: string } | null
  /** The verified signed link. Unset if the file is opened with a key. */
  link?: OpenLink
  /** The body limit in bytes. */
  bodyBytes?: number
}

/** The types of every Hono app here. */
export type EdgeEnv = { Bindings: Env; Variables: RequestIdVariables & Access }
