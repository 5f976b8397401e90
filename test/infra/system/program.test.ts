// The programs of the crash campaign and the hostile benchmark: their visibility to other users of the machine, and their requests.
import { readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { createSecrets } from '../../../infra/operator/secrets.ts'
import { createProgram, type Program } from '../../../infra/system/program.ts'
import type { GpuSettings } from '../../../infra/system/programs/gpu-program.ts'
import { findFreePort } from '../../../infra/system/system.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
let program: Program
afterEach(() => program.kill())

test('secrets in the settings are not visible in the command line of the process', async () => {
  const { secrets, gpuPublicKey } = await createSecrets()
  const settings: GpuSettings & { secrets: object } = {
    ...{ name: 'x', directory: scratch.directory, port: await findFreePort(), edgePublicKey: gpuPublicKey, secrets },
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

/** A program that logs the begin and the end of each request, and fails at one. */
const REPLYING = `
import { appendFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
const log = (line) => appendFileSync(JSON.parse(process.env.OCTET_PROGRAM_SETTINGS).log, line + '\\n')
process.on('message', async (request) => {
  log('begins ' + request)
  await sleep(request === 'slow' ? 200 : 0)
  if (request === 'fails') throw new Error('failed')
  log('ends ' + request)
  process.send(request)
})
process.send('ready')
`

test('requests are answered one after the other, and a failed one ends the program', async () => {
  const [file, log] = ['replying.ts', 'log'].map((name) => path.join(scratch.directory, name)) as [string, string]
  await writeFile(file, REPLYING)
  const programs = path.join(import.meta.dirname, '../../../infra/system/programs')
  program = createProgram(path.relative(programs, file), scratch.directory, { log })
  await program.start()
  await Promise.all(['slow', 'quick'].map(program.ask))
  const lines = ['begins slow', 'ends slow', 'begins quick', 'ends quick']
  expect((await readFile(log, 'utf8')).trim().split('\n')).toEqual(lines)
  const [failed, later] = await Promise.allSettled(['fails', 'quick'].map(program.ask))
  expect(String((failed as PromiseRejectedResult).reason)).toContain('ended with 1 before the message fails')
  expect(String((later as PromiseRejectedResult).reason)).toContain('does not run')
})
