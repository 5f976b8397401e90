import { app } from './app.ts'
import type { Env } from './env.ts'
import { queue } from './queue.ts'

export { AccountDO } from './account.ts'
export { JobDO } from './job.ts'
export { WebhookDO } from './webhook-outbox.ts'
export { GenerateWorkflow } from './workflow.ts'

export default { fetch: app.fetch, queue } satisfies ExportedHandler<Env>
