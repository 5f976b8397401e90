// The worker's environment as a global type, as `wrangler types` declares it, so that the classes of the Durable Objects need not be imported
// by the files that call them. This file is not a .d.ts, because errors in those are not reported (skipLibCheck).
declare global {
  interface Env {
    ACCOUNT: DurableObjectNamespace<import('./accounts/account.ts').AccountDO>
    JOB: DurableObjectNamespace<import('./jobs/job.ts').JobDO>
    WEBHOOK: DurableObjectNamespace<import('./webhooks/outbox.ts').WebhookDO>
    /** One object per endpoint, by endpoint name. */
    WARM: DurableObjectNamespace<import('./gpu/warm.ts').WarmDO>
    RESULTS: R2Bucket
    /** Usage and forecasts across accounts. The schema is in migrations/. */
    DB: D1Database
    /** Settled jobs to be exported to D1 and Stripe. */
    USAGE: Queue<import('./usage/record.ts').UsageRecord>
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
}

export {}
