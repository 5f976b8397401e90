import { app } from './app.ts'
import { tidyDatabase } from './database-retention.ts'
import type { Env } from './env.ts'
import { queue } from './queue.ts'
import { keepSchedule } from './warm.ts'

export { AccountDO } from './account.ts'
export { JobDO } from './job.ts'
export { WarmDO } from './warm.ts'
export { WebhookDO } from './webhook-outbox.ts'

async function scheduled({ scheduledTime: now }: ScheduledController, env: Env, ctx: ExecutionContext): Promise<void> {
  // A separate promise, because a failure of the schedule must not prevent the deletion of expired rows.
  ctx.waitUntil(tidyDatabase(env, now))
  await keepSchedule(env, now)
}

export default { fetch: app.fetch, queue, scheduled } satisfies ExportedHandler<Env>
