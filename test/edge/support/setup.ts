// The setup of each test file: the migrated tables of D1, and no network.
import { abortAllDurableObjects, applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterAll, vi } from 'vitest'

await applyD1Migrations(env.DB, env.D1_MIGRATIONS)

// Remaining work of a test, such as the retry of a webhook, must not reach the network after its mocks are removed.
globalThis.fetch = async (input) => {
  throw new TypeError(`no test may fetch ${input instanceof Request ? input.url : input}`)
}

// On a busy machine, a condition may take longer than vitest's default of one second.
const { waitFor } = vi
vi.waitFor = (callback, options = 10_000) => waitFor(callback, options)

// An object that logs after the end of its test file would keep the runner alive.
afterAll(async () => {
  for (const level of ['debug', 'log', 'info', 'warn', 'error'] as const) console[level] = () => {}
  await abortAllDurableObjects().catch(() => {})
})
