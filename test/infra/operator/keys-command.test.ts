// The operator's command for keys, limits and credit, against the real worker.
import { execFile } from 'node:child_process'
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, test, vi } from 'vitest'
import { IMAGE, startGpuStub } from '../../../infra/bench/edge/gpu-stub.ts'
import { startWorker } from '../../../infra/local/servers/worker.ts'
import { createSecrets } from '../../../infra/operator/secrets.ts'

const COMMAND = path.join(import.meta.dirname, '../../../infra/operator/keys-command.ts')
let persist: string
let gpu: Awaited<ReturnType<typeof startGpuStub>>
let worker: Awaited<ReturnType<typeof startWorker>>
let token: string

async function runKeys(command: string, ...args: string[]): Promise<string> {
  const all = [COMMAND, command, '--account', 'acme', ...args, '--url', worker.url, '--token', token]
  return (await promisify(execFile)(process.execPath, all)).stdout.trim()
}

beforeAll(async () => {
  persist = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-keys-'))
  const { secrets } = await createSecrets()
  token = secrets.OCTET_ADMIN_TOKEN
  gpu = await startGpuStub()
  worker = await startWorker({ gpuUrl: gpu.url, persist, secrets })
})
afterAll(async () => {
  await worker?.stop()
  await gpu?.stop()
  await fs.rm(persist, { recursive: true, force: true })
})

test('npm run keys creates, shows, rotates and revokes a key', async ({ expect }) => {
  const key = await runKeys('create', '--label', 'web', '--scopes', 'generate', '--rate', '5', '--total', '2.5')
  const id = key.split('_')[2]!
  expect(await runKeys('show', id)).toMatch(
    /active {2}generate {2}web\nlimits {2}requests_per_minute 5, total_microdollars 2500000\n/,
  )
  const next = (await runKeys('rotate', id, '--overlap', '60')).split('_')[2]!
  await runKeys('revoke', next)
  expect((await runKeys('list')).split('\n')).toEqual([
    expect.stringMatching(new RegExp(`^${id} .* until `)),
    expect.stringMatching(new RegExp(`^${next} .* revoked `)),
  ])
})

test('npm run keys -- list marks keys created by a revoked key', async ({ expect }) => {
  const admin = await runKeys('create', '--scopes', 'generate,read,admin')
  const id = admin.split('_')[2]!
  const headers = { authorization: `Bearer ${admin}`, 'content-type': 'application/json' }
  const made = await fetch(new URL('/v1/keys', worker.url), { method: 'POST', headers, body: '{}' })
  const child = ((await made.json()) as { id: string }).id
  expect(await runKeys('list')).toMatch(new RegExp(`^${child} {2}created \\S+ by ${id} {2}active`, 'm'))
  await runKeys('revoke', id)
  expect(await runKeys('list')).toMatch(
    new RegExp(`^${child} .* by ${id} \\(revoked, or created by a revoked key\\) {2}active`, 'm'),
  )
})

test('npm run keys changes only the given limits of an account', async ({ expect }) => {
  const parseLimits = (text: string) => /^limits +(.*)$/m.exec(text)?.[1]
  expect(parseLimits(await runKeys('account'))).toBe(
    'requests_per_minute 600, concurrent_jobs 100, daily_microdollars 10000000',
  )
  expect(parseLimits(await runKeys('account', '--daily', '3'))).toBe(
    'requests_per_minute 600, concurrent_jobs 100, daily_microdollars 3000000',
  )
  expect(parseLimits(await runKeys('account', '--rate', 'none'))).toBe(
    'concurrent_jobs 100, daily_microdollars 3000000',
  )
  await expect(runKeys('account', '--rate', 'many')).rejects.toThrow('It must be a whole number.')
})

test('npm run keys turns prompts in image files off and on, and sets the retention', async ({ expect }) => {
  const listImages = async (...args: string[]) => /^images +(.*)$/m.exec(await runKeys('account', ...args))?.[1]
  expect(await listImages()).toBe('30 days, with prompts in the files')
  expect(await listImages('--no-prompt-metadata', '--retention-days', '7')).toBe('7 days, without prompts in the files')
  expect(await listImages('--daily', '3')).toBe('7 days, without prompts in the files')
  expect(await listImages('--prompt-metadata')).toBe('7 days, with prompts in the files')
  await expect(runKeys('account', '--retention-days', '8')).rejects.toThrow('retention_days')
})

test('npm run keys exports an account with its images, and deletes it permanently', async ({ expect }) => {
  const key = await runKeys('create', '--label', 'artist', '--account', 'artist')
  const body = JSON.stringify({ prompt: 'a quiet sea', n: 2 })
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  const made = await fetch(`${worker.url}/v1/images/generations`, { method: 'POST', headers, body })
  const { octet } = (await made.json()) as { octet: { job: string } }
  const file = path.join(persist, 'artist.jsonl')
  const own = ['--account', 'artist']
  await runKeys('export', '--out', file, '--images', path.join(persist, 'images'), ...own)
  const lines = (await fs.readFile(file, 'utf8')).trimEnd().split('\n')
  expect(lines.map((line) => JSON.parse(line).type)).toEqual(['account', 'key', 'usage', 'job'])
  expect(JSON.parse(lines[3]!)).toMatchObject({ id: octet.job, request: { prompt: 'a quiet sea' } })
  for (const image of ['0.png', '1.png'])
    expect(await fs.readFile(path.join(persist, 'images', octet.job, image))).toEqual(IMAGE)
  expect((await fs.stat(file)).mode & 0o777).toBe(0o600)

  await expect(runKeys('delete', '--confirm', 'acme', ...own)).rejects.toThrow('--confirm was acme; it must be artist.')
  expect(await runKeys('delete', '--confirm', 'artist', ...own)).toMatch(/^deleting at step "jobs"/)
  expect((await fetch(`${worker.url}/v1/jobs`, { headers })).status).toBe(401)
  await expect(runKeys('create', ...own)).rejects.toThrow('This account was deleted')
  // The only remaining step deletes the usage rows in D1, five days later.
  await vi.waitFor(
    async () =>
      expect(await runKeys('account', ...own)).toMatch(/deleting at step "usage".*, 1 jobs so far\ncredited \$0/),
    { timeout: 110_000, interval: 500 },
  )
})
