// The edge worker plus a route that resets its Durable Objects the way a deploy does. Used by the campaign only, never deployed.

import type { DurableObject } from 'cloudflare:workers'
import { configOf } from '../../../edge/config.ts'
import worker, * as edge from '../../../edge/index.ts'

export * from '../../../edge/index.ts'

/** Cloudflare's error message when a deploy resets an object. */
const MESSAGE = 'Durable Object reset because its code was updated.'
/** Older jobs have ended; a reset would only wake their objects. */
const RECENT_MS = 30_000
const PATH = '/campaign/reset'

type Binding = 'ACCOUNT' | 'JOB' | 'WEBHOOK' | 'ENDPOINT'
type ObjectClass = new (ctx: DurableObjectState, env: Env) => DurableObject<Env>

/** The Durable Objects created in this process, which share its global scope, and when each was first created. */
const created = new Map<string, { binding: Binding; name: string; at: number }>()

/** `Base`, recorded on creation and with a method that resets it. */
function makeResettable(Base: ObjectClass, binding: Binding) {
  return class extends Base {
    constructor(ctx: DurableObjectState, env: Env) {
      super(ctx, env)
      const { name } = ctx.id
      const key = `${binding}/${name}`
      if (name !== undefined && !created.has(key)) created.set(key, { binding, name, at: Date.now() })
    }
    reset(): void {
      this.ctx.abort(MESSAGE)
    }
  }
}

export const AccountDO = makeResettable(edge.AccountDO, 'ACCOUNT')
export const JobDO = makeResettable(edge.JobDO, 'JOB')
export const WebhookDO = makeResettable(edge.WebhookDO, 'WEBHOOK')
export const EndpointDO = makeResettable(edge.EndpointDO, 'ENDPOINT')

/** Resets all objects that may be in memory, concurrently. Returns the number of reset objects by binding. */
async function resetObjects(env: Env): Promise<Record<string, number>> {
  const recent = [...created.values()].filter(({ binding, at }) => binding !== 'JOB' || Date.now() - at <= RECENT_MS)
  const resets = recent.map(async ({ binding, name }) => {
    const object = env[binding].getByName(name) as unknown as { reset: () => Promise<void> }
    // Aborting the object also rejects this call.
    await object.reset().catch(() => {})
  })
  await Promise.all(resets)
  return Object.fromEntries([...Map.groupBy(recent, ({ binding }) => binding)].map(([key, own]) => [key, own.length]))
}

export default {
  ...worker,
  async fetch(request, env, ctx) {
    const { pathname } = new URL(request.url)
    if (pathname !== PATH) return worker.fetch(request, env, ctx)
    const allowed = request.headers.get('authorization') === `Bearer ${configOf(env).adminToken}`
    return allowed ? Response.json(await resetObjects(env)) : new Response(null, { status: 401 })
  },
} satisfies ExportedHandler<Env>
