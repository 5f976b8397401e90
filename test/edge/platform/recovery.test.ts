import { env } from 'cloudflare:workers'
import { afterEach, test, vi } from 'vitest'
import { readRecovery } from '../../../edge/platform/recovery.ts'

afterEach(() => vi.restoreAllMocks())

const defaults = { jobMs: 10_000, reservationMs: 900_000, usageMs: 43_200_000 }

test('recovery has defaults, and takes a table or its JSON text', ({ expect }) => {
  expect(readRecovery({ OCTET_RECOVERY: undefined })).toEqual(defaults)
  expect(readRecovery(env)).toEqual(defaults)
  expect(readRecovery({ OCTET_RECOVERY: '{"job_seconds": 0.5}' })).toEqual({ ...defaults, jobMs: 500 })
})

test.for([[{ job_seconds: 0 }], [{ seconds: 1 }], ['{job_seconds'], [7]])(
  'recovery from %j keeps the defaults and says what is wrong',
  ([given], { expect }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    expect(readRecovery({ OCTET_RECOVERY: given })).toEqual(defaults)
    expect(logged.mock.calls.join()).toContain('OCTET_RECOVERY is malformed')
  },
)
