import { app } from './app.ts'
import { prewarmOnSchedule } from './gpu/health.ts'
import { applyRetention } from './usage/database-retention.ts'
import { queue } from './usage/export.ts'

export { AccountDO } from './accounts/account.ts'
export { EndpointDO } from './gpu/endpoint-object.ts'
export { JobDO } from './jobs/job.ts'
export { WebhookDO } from './webhooks/webhook-object.ts'

async function scheduled({ scheduledTime: now }: ScheduledController, env: Env, ctx: ExecutionContext): Promise<void> {
  // A separate promise, because a failure of the schedule must not prevent the deletion of expired rows.
  ctx.waitUntil(applyRetention(env, now))
  await prewarmOnSchedule(env, now)
}

export default { fetch: app.fetch, queue, scheduled } satisfies ExportedHandler<Env>
