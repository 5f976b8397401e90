// The worker's bindings as a global type, as `wrangler types` declares it, so that callers of a Durable Object need not import its class.
// Variables and secrets are not part of the type: config.ts parses them. This file is not a .d.ts, because errors in those are not
// reported (skipLibCheck).
declare global {
  interface Env {
    ACCOUNT: DurableObjectNamespace<import('./accounts/account.ts').AccountDO>
    JOB: DurableObjectNamespace<import('./jobs/job.ts').JobDO>
    WEBHOOK: DurableObjectNamespace<import('./webhooks/webhook-object.ts').WebhookDO>
    /** One object per endpoint, by endpoint name. */
    ENDPOINT: DurableObjectNamespace<import('./gpu/endpoint-object.ts').EndpointDO>
    RESULTS: R2Bucket
    /** Usage and forecasts across accounts. The schema is in migrations/. */
    DB: D1Database
    /** Settled jobs to be exported to D1 and Stripe. */
    USAGE: Queue<import('./usage/record.ts').UsageRecord>
    OUTER_LIMIT: RateLimit
    /** Limits the requests of a key or browser token; see auth/auth.ts. */
    REQUEST_LIMIT: RateLimit
    /** Limits the playground's tokens per client address. */
    VISITOR_LIMIT: RateLimit
    /** Limits failed operator logins per client address. */
    OPERATOR_LIMIT: RateLimit
    /** One point per finished job; see jobs/observe.ts. */
    ANALYTICS: AnalyticsEngineDataset
  }
}

export {}
