import { env } from 'cloudflare:workers'
import { test } from 'vitest'
import { readRecovery } from '../../edge/recovery.ts'

test('recovery has defaults, takes a table or its JSON text, and says what is wrong', ({ expect }) => {
  const defaults = { jobMs: 30_000, reservationMs: 900_000, webhookMs: 900_000, usageMs: 86_400_000 }
  expect(readRecovery({ OCTET_RECOVERY: undefined })).toEqual(defaults)
  expect(readRecovery(env)).toEqual(defaults)
  expect(readRecovery({ OCTET_RECOVERY: '{"job_seconds": 0.5}' })).toEqual({ ...defaults, jobMs: 500 })
  expect(() => readRecovery({ OCTET_RECOVERY: { job_seconds: 0 } })).toThrow(
    /OCTET_RECOVERY is malformed:[\s\S]*job_seconds/,
  )
  expect(() => readRecovery({ OCTET_RECOVERY: { seconds: 1 } })).toThrow('Unrecognized key: "seconds"')
})
