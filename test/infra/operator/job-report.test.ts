// The report on a job: the real command against the real worker.
import { execFile } from 'node:child_process'
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, test } from 'vitest'
import { type GpuStub, startGpuStub } from '../../../infra/bench/edge/gpu-stub.ts'
import { startWorker } from '../../../infra/local/servers/worker.ts'
import { createKey } from '../../../infra/operator/keys.ts'
import { createSecrets } from '../../../infra/operator/secrets.ts'

const COMMAND = path.join(import.meta.dirname, '../../../infra/operator/job-report.ts')
let gpu: GpuStub
let persist: string
let worker: Awaited<ReturnType<typeof startWorker>>
let token: string
let id: string
let key: string

const runJob = (...args: string[]): Promise<{ stdout: string; stderr: string; code?: number }> =>
  promisify(execFile)(process.execPath, [COMMAND, '--url', worker.url, '--token', token, ...args]).catch(
    (error) => error,
  )

beforeAll(async () => {
  gpu = await startGpuStub()
  persist = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-job-'))
  const { secrets } = await createSecrets()
  token = secrets.OCTET_ADMIN_TOKEN
  worker = await startWorker({ gpuUrl: gpu.url, persist, secrets })
  ;({ key } = await createKey({ url: worker.url, token }, 'acme'))
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  const body = JSON.stringify({ prompt: 'a heron in the reeds', size: '64x64' })
  const reply = await fetch(`${worker.url}/v1/images/generations`, { method: 'POST', headers, body })
  id = reply.headers.get('x-octet-job')!
})
afterAll(async () => {
  await worker?.stop()
  await gpu?.stop()
  await fs.rm(persist, { recursive: true, force: true })
})

test('npm run job shows the course of a job on one screen', async ({ expect }) => {
  const { stdout } = await runJob(id)
  const lines = stdout.trimEnd().split('\n')
  expect(lines[0]).toBe(`${id} of account acme: succeeded`)
  expect(lines.length).toBeLessThan(40)
  expect(stdout).toMatch(/^route +turbo at endpoint default: A short prompt/m)
  expect(stdout).toMatch(/\+\d\.\d{3} s {2}attempt 1 {2}started .*device stub/)
  expect(stdout).toMatch(/^ledger +captured, \$0\.\d{6} of \$0\.\d{6} at \d{4}-/m)
  expect(stdout).toMatch(/^image +results\/\S+, 65536 bytes, stored, receipt$/m)
  expect(stdout).toMatch(/^webhook +none$/m)
  expect(stdout).not.toContain('heron')
})

test('npm run job distinguishes an image deleted by its owner from a lost one', async ({ expect }) => {
  const headers = { authorization: `Bearer ${key}` }
  await fetch(`${worker.url}/v1/jobs/${id}/images`, { method: 'DELETE', headers })
  expect((await runJob(id)).stdout).toMatch(/^image +results\/\S+, 65536 bytes, deleted by its owner, receipt$/m)
})

test('npm run job prints the error and exits with 1', async ({ expect }) => {
  const absent = await runJob(`job_${'0'.repeat(32)}`)
  expect([absent.code, absent.stderr]).toEqual([1, `job: There is no job job_${'0'.repeat(32)}.\n`])
  const stranger = await runJob(id, '--token', 'x')
  expect([stranger.code, stranger.stderr]).toEqual([1, expect.stringContaining('operator')])
})
