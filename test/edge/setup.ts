// Before each test file: the tables of D1, as `wrangler d1 migrations apply` makes them, and no network.
import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { vi } from 'vitest'

await applyD1Migrations(env.DB, env.D1_MIGRATIONS)

// What a test leaves behind, such as a webhook that is tried again, must not reach the network once its mocks are gone.
globalThis.fetch = async (input) => {
  throw new TypeError(`no test may fetch ${input instanceof Request ? input.url : input}`)
}

// On a busy machine what a test waits for may take longer than vitest's one second.
const { waitFor } = vi
vi.waitFor = (callback, options = 10_000) => waitFor(callback, options)
