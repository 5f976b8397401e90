import { app } from './app.ts'
import type { Env } from './env.ts'
import { queue } from './queue.ts'
import { keepSchedule } from './warm.ts'

export { AccountDO } from './account.ts'
export { JobDO } from './job.ts'
export { WarmDO } from './warm.ts'
export { WebhookDO } from './webhook-outbox.ts'

const scheduled = (event: ScheduledController, env: Env) => keepSchedule(env, event.scheduledTime)

export default { fetch: app.fetch, queue, scheduled } satisfies ExportedHandler<Env>
