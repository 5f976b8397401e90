// Visibility of the programs of the crash campaign and the hostile benchmark to other users of the machine.
import { readFile, stat } from 'node:fs/promises'
import { afterEach, expect, test } from 'vitest'
import { createSecrets } from '../../../infra/operator/secrets.ts'
import { createProgram, type Program } from '../../../infra/system/program.ts'
import type { GpuSettings } from '../../../infra/system/programs/gpu-program.ts'
import { freePort } from '../../../infra/system/system.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
let program: Program
afterEach(() => program.kill())

test('secrets in the settings are not visible in the command line of the process', async () => {
  const { secrets, gpuPublicKey } = await createSecrets()
  const settings: GpuSettings & { secrets: object } = {
    ...{ name: 'x', directory: scratch.directory, port: await freePort(), edgePublicKey: gpuPublicKey, secrets },
    ...{ heartbeatMs: 500, stepMs: 1, unreadMs: 1000 },
  }
  program = createProgram('gpu-program.ts', scratch.directory, settings)
  await program.start()
  expect((await fetch(`http://127.0.0.1:${settings.port}/ping`)).ok).toBe(true)
  const listed = await readFile(`/proc/${program.pid()}/cmdline`, 'latin1')
  expect(listed).toContain('gpu-program.ts')
  for (const secret of Object.values(secrets)) expect(listed).not.toContain(secret)
  // They are in the environment, which only the owner can read.
  expect(await readFile(`/proc/${program.pid()}/environ`, 'latin1')).toContain(secrets.OCTET_ADMIN_TOKEN)
  expect((await stat(`/proc/${program.pid()}/environ`)).mode & 0o077).toBe(0)
})
