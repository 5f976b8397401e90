import { app } from './app.ts'
import type { Env } from './env.ts'

export { AccountDO } from './account.ts'
export { JobDO } from './job.ts'

export default { fetch: app.fetch } satisfies ExportedHandler<Env>
