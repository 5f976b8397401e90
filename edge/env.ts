// What the worker is configured with: vars and bindings of wrangler.toml, and the secrets of .dev.vars or `wrangler secret put`.
import type { RequestIdVariables } from 'hono/request-id'
import type { AccountDO } from './account.ts'
import type { KeyInfo } from './account-keys.ts'
import type { UsageRecord } from './account-outbox.ts'
import type { JobDO } from './job.ts'
import type { Credential } from './keys.ts'
import type { OpenLink } from './links.ts'
import type { WarmDO } from './warm.ts'
import type { WebhookDO } from './webhook-outbox.ts'

export type Env = {
  ACCOUNT: DurableObjectNamespace<AccountDO>
  JOB: DurableObjectNamespace<JobDO>
  WEBHOOK: DurableObjectNamespace<WebhookDO>
  /** One for each endpoint, by its name. */
  WARM: DurableObjectNamespace<WarmDO>
  RESULTS: R2Bucket
  /** Usage and forecasts across accounts; migrations/ has the tables. */
  DB: D1Database
  /** Settled jobs on their way to D1 and Stripe. */
  USAGE: Queue<UsageRecord>
  OUTER_LIMIT: RateLimit
  /** Requests that start no job; see auth.ts. */
  READ_LIMIT: RateLimit
  /** Wrong operator tokens of one address. */
  OPERATOR_LIMIT: RateLimit
  /** JSON text or a TOML table; see limits.ts and price.ts. */
  OCTET_ACCOUNT_LIMITS: unknown
  OCTET_PRICES: unknown
  /** The same; see recovery.ts. */
  OCTET_RECOVERY: unknown
  /** The same; see warm-policy.ts. */
  OCTET_PREWARM: unknown
  /** Reports captures as meter events; nothing is reported without it. */
  STRIPE_SECRET_KEY?: string
  /** Waits before attempts 2, 3, … of a delivery, in seconds. */
  WEBHOOK_RETRY_SECONDS: string
  /** How long a receiver may take to answer. */
  WEBHOOK_TIMEOUT_SECONDS: string
  /** How long a receiver gets nothing after five failures in a row; twice as long each time that it fails again, up to ten minutes. */
  WEBHOOK_BREAKER_SECONDS: string
  /** Deliveries a minute that an account may ask for: replays and test events. */
  WEBHOOK_REPLAYS_PER_MINUTE: string
  /** Ports that a webhook's address may have, separated by commas. */
  WEBHOOK_PORTS: string
  /** Hosts that get no webhooks, with all below them; this worker's own is one anyway. */
  WEBHOOK_BLOCKED_HOSTS: string
  /** "true" lets webhooks go to http and to this machine. For development only. */
  WEBHOOK_LOCAL: string
  /** JSON text or the same as a TOML table; see catalogue.ts. */
  OCTET_CATALOGUE: unknown
  GPU_URL: string
  /** What the hosts of the GPU functions want to see, as JSON; see endpoints.ts. */
  GPU_PROXY_HEADERS?: string
  /** See account-slots.ts. */
  GPU_SLOTS: string
  /** Seconds; see gpu-times.ts. */
  GPU_START_SECONDS: string
  GPU_SILENCE_SECONDS: string
  GPU_RUN_SECONDS: string
  GPU_RETRY_SECONDS: string
  GPU_HEDGE_SECONDS: string
  /** `version:secret`, newest first, separated by commas; see keys.ts. */
  KEY_PEPPER: string
  /** Private Ed25519 JWK that signs what the worker asks of the GPU function. */
  GPU_SIGNING_KEY: string
  OCTET_ADMIN_TOKEN: string
  /** JSON array of private Ed25519 JWKs, newest first; see receipts.ts. */
  RECEIPT_SIGNING_KEYS: string
  /** "true" adds prompts to the log line of each finished job. */
  OCTET_LOG_PROMPTS: string
  /** One point per finished job; see observe.ts. */
  ANALYTICS: AnalyticsEngineDataset
}

/** What access.ts sets before a handler runs. */
type Access = {
  /** The caller's credential, on routes that a key may use. */
  credential: Credential
  /** Its key, once the account has confirmed it. */
  key?: KeyInfo
  /** On /v1/keys: the key that manages its account, null for the operator. */
  manages: { account: string; keyId: string } | null
  /** The signed link that was opened; none when a key opens the file. */
  link?: OpenLink
  /** The most bytes that may be read of the body. */
  bodyBytes?: number
}

/** The types of every Hono app here. */
export type EdgeEnv = { Bindings: Env; Variables: RequestIdVariables & Access }
