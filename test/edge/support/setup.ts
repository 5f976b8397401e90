// Before each test file: the tables of D1, as `wrangler d1 migrations apply` makes them, and no network.
import { abortAllDurableObjects, applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterAll, vi } from 'vitest'

await applyD1Migrations(env.DB, env.D1_MIGRATIONS)

// What a test leaves behind, such as a webhook that is tried again, must not reach the network once its mocks are gone.
globalThis.fetch = async (input) => {
  throw new TypeError(`no test may fetch ${input instanceof Request ? input.url : input}`)
}

// On a busy machine what a test waits for may take longer than vitest's one second.
const { waitFor } = vi
vi.waitFor = (callback, options = 10_000) => waitFor(callback, options)

// An object that is still at work when its file ends, and logs, keeps the runner from ending.
afterAll(async () => {
  for (const level of ['debug', 'log', 'info', 'warn', 'error'] as const) console[level] = () => {}
  await abortAllDurableObjects().catch(() => {})
})
