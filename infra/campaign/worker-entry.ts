// The worker of edge/ with one more route, by which the campaign resets its Durable Objects as a deploy does. Never deployed.

import type { Env } from '../../edge/env.ts'
import worker, * as edge from '../../edge/index.ts'

export * from '../../edge/index.ts'

/** Cloudflare's own words for a reset by a deploy. */
const MESSAGE = 'Durable Object reset because its code was updated.'
/** Jobs of before are over: to reset them would only wake them. */
const RECENT_MS = 30_000
const PATH = '/campaign/reset'

const BINDINGS = ['ACCOUNT', 'JOB', 'WEBHOOK', 'WARM'] as const
type Binding = (typeof BINDINGS)[number]
type Resettable = { reset: () => Promise<void> }

/** The objects of this process, which share its global scope, and when each was first in memory. */
const created = new Map<string, { binding: Binding; name: string; at: number }>()

function note(binding: Binding, { id }: DurableObjectState): void {
  const { name } = id
  const key = `${binding}/${name}`
  if (name !== undefined && !created.has(key)) created.set(key, { binding, name, at: Date.now() })
}

export class AccountDO extends edge.AccountDO {
  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    note('ACCOUNT', ctx)
  }
  reset(): void {
    this.ctx.abort(MESSAGE)
  }
}

export class JobDO extends edge.JobDO {
  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    note('JOB', ctx)
  }
  reset(): void {
    this.ctx.abort(MESSAGE)
  }
}

export class WebhookDO extends edge.WebhookDO {
  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    note('WEBHOOK', ctx)
  }
  reset(): void {
    this.ctx.abort(MESSAGE)
  }
}

export class WarmDO extends edge.WarmDO {
  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    note('WARM', ctx)
  }
  reset(): void {
    this.ctx.abort(MESSAGE)
  }
}

/** Resets every object that may be in memory, all at once. Returns how many of each kind. */
async function resetObjects(env: Env): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}
  const resets: Promise<unknown>[] = []
  for (const [key, { binding, name, at }] of created) {
    if (binding === 'JOB' && Date.now() - at > RECENT_MS) created.delete(key)
    else {
      const object = env[binding].getByName(name) as unknown as Resettable
      // The reset itself fails the call that asks for it.
      resets.push(object.reset().catch(() => {}))
      counts[binding] = (counts[binding] ?? 0) + 1
    }
  }
  await Promise.all(resets)
  return counts
}

export default {
  ...worker,
  async fetch(request, env, ctx) {
    const { pathname } = new URL(request.url)
    if (pathname !== PATH) return worker.fetch(request, env, ctx)
    const allowed = request.headers.get('authorization') === `Bearer ${env.OCTET_ADMIN_TOKEN}`
    return allowed ? Response.json(await resetObjects(env)) : new Response(null, { status: 401 })
  },
} satisfies ExportedHandler<Env>
