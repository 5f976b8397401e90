// The setup of each test file. All files run in one workerd, because its start costs more than most files. Each file begins with empty
// storage, no Durable Objects, migrated tables of D1, newly evaluated modules and no network.
import { applyD1Migrations, reset } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterAll, vi } from 'vitest'

const RESET_MS = 60_000

// Removes the mocks of the previous file, also that of the console.
vi.restoreAllMocks()
await applyD1Migrations(env.DB, env.D1_MIGRATIONS)

// Remaining work of a test, such as the retry of a webhook, must not reach the network after its mocks are removed.
globalThis.fetch = async (input) => {
  throw new TypeError(`no test may fetch ${input instanceof Request ? input.url : input}`)
}

// On a busy machine, a condition may take longer than vitest's default of one second.
const { waitFor } = vi
if (waitFor.name !== 'waitPatiently')
  vi.waitFor = function waitPatiently(callback, options = 10_000) {
    return waitFor(callback, options)
  }

// An object that logs after the end of its test file would keep the runner alive.
afterAll(async () => {
  for (const level of ['debug', 'log', 'info', 'warn', 'error'] as const)
    vi.spyOn(console, level).mockImplementation(() => {})
  await reset()
  vi.resetModules()
}, RESET_MS)
