// The worker as the demo runs it: real workerd, real sockets, and the operator's command line.
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, test, vi } from 'vitest'
import { type GpuStub, HELD_PROMPT, IMAGE, startGpuStub } from '../../../../infra/bench/edge/gpu-stub.ts'
import { startWorker } from '../../../../infra/local/servers/worker.ts'
import { createSecrets, type Secrets } from '../../../../infra/operator/secrets.ts'

const run = promisify(execFile)
const root = path.join(import.meta.dirname, '../../../..')

let gpu: GpuStub
let persist: string
let secrets: Secrets
let worker: Awaited<ReturnType<typeof startWorker>>

const runCli = async (...args: string[]) => {
  const env = { ...process.env, OCTET_URL: worker.url, OCTET_ADMIN_TOKEN: secrets.OCTET_ADMIN_TOKEN }
  return run(process.execPath, ['infra/operator/keys-command.ts', ...args], { cwd: root, env })
}

beforeAll(async () => {
  gpu = await startGpuStub()
  persist = await mkdtemp(path.join(os.tmpdir(), 'octet-worker-'))
  secrets = (await createSecrets()).secrets
  const offer = {
    route: 'turbo',
    model: 'stub',
    tier: 'fp32',
    steps: 2,
    guidance_scale: 1,
    width: 64,
    height: 64,
    max_pixels: 4096,
  } as const
  worker = await startWorker({ gpuUrl: gpu.url, persist, secrets, catalog: { offers: [offer] } })
})
afterAll(async () => {
  await worker?.stop()
  await gpu?.stop()
  await rm(persist, { recursive: true, force: true })
})

const call = (key: string, address: string, init: RequestInit = {}) =>
  fetch(new URL(address, worker.url), {
    ...init,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
  })
const body = JSON.stringify({ prompt: 'a cat' })

/** Addresses of the built files, as `[assets]` serves them. Cloudflare reads `_headers`, and ignores names with a dot. */
async function listAssetAddresses(): Promise<string[]> {
  const entries = await readdir(path.join(root, 'edge/dist'), { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile() && !/^[._]/.test(entry.name))
  return files.map(
    ({ parentPath, name }) =>
      `/${path.relative(path.join(root, 'edge/dist'), path.join(parentPath, name === 'index.html' ? '.' : name))}`,
  )
}

test('every file of the page is served, and other addresses reach the worker', async ({ expect }) => {
  const addresses = await listAssetAddresses()
  expect(addresses).toContain('/')
  expect(addresses.length).toBeGreaterThan(15)
  for (const address of [...addresses, '/docs/', '/?account']) {
    const reply = await fetch(new URL(address, worker.url))
    expect.soft(`${address} ${reply.status}`).toBe(`${address} 200`)
    expect.soft(reply.headers.get('content-type'), address).not.toContain('problem+json')
  }
  expect(await (await fetch(new URL('/', worker.url))).text()).toBe(
    await readFile(path.join(root, 'edge/dist/index.html'), 'utf8'),
  )
  for (const address of ['/v1/models', '/elsewhere', '/docsx', '/assetsx'])
    expect((await fetch(new URL(address, worker.url))).headers.get('content-type')).toBe('application/problem+json')
})

describe('npm run keys', () => {
  test('creates a key that works, lists it without its text, and revokes it', async ({ expect }) => {
    const { stdout } = await runCli('create', '--account', 'acme', '--label', 'laptop')
    const key = stdout.trim()
    expect(key).toMatch(/^oct_acme_/)
    expect((await call(key, '/v1/models')).status).toBe(200)
    const listed = (await runCli('list', '--account', 'acme')).stdout
    expect(listed).toMatch(/active {2}generate,read {2}laptop/)
    expect(listed).not.toContain(key)
    const id = key.split('_')[2]!
    await runCli('revoke', id, '--account', 'acme')
    expect((await call(key, '/v1/models')).status).toBe(401)
    expect((await runCli('list', '--account', 'acme')).stdout).toContain('revoked')
  })

  test('sets limits and scopes, shows and rotates a key, and gives credit once', async ({ expect }) => {
    const made = await runCli('create', '--account', 'shop', '--scopes', 'generate', '--rate', '30', '--daily', '2.5')
    const [id, account] = [made.stdout.split('_')[2]!, ['--account', 'shop']]
    const shown = (await runCli('show', id, ...account)).stdout
    expect(shown).toContain('limits  requests_per_minute 30, daily_microdollars 2500000')
    expect(shown).toContain('spent   $0.000000, reserved $0.000000 by 0 jobs')
    const next = (await runCli('rotate', id, ...account, '--overlap', '0')).stdout.trim()
    expect((await call(next, '/v1/models')).status).toBe(200)
    expect((await call(made.stdout.trim(), '/v1/models')).status).toBe(401)
    for (const _ of [1, 2]) {
      const { stdout } = await runCli('credit', 'invoice-7', ...account, '--amount', '12.5')
      expect(stdout).toContain('shop has a balance of $12.500000.')
    }
    const changed = (await runCli('account', ...account, '--prepaid', '--concurrency', '3')).stdout
    expect(changed).toMatch(/^shop {2}prepaid/)
    expect(changed).toContain('limits  requests_per_minute 600, concurrent_jobs 3')
  })

  test('prints the error and exits with 1', async ({ expect }) => {
    const stderr = (error: { stderr: string; code: number }) => [error.code, error.stderr]
    expect(await runCli('create', '--account', 'No!').catch(stderr)).toEqual([
      1,
      expect.stringContaining('account is "No!"; it must be'),
    ])
    expect(await runCli('list', '--account', 'a', '--token', 'x').catch(stderr)).toEqual([
      1,
      expect.stringContaining('operator token'),
    ])
    const nowhere = await runCli('list', '--account', 'a', '--url', 'http://127.0.0.1:1').catch(stderr)
    expect(nowhere).toEqual([1, expect.stringContaining('no worker responds at http://127.0.0.1:1')])
  })

  test('shows the source of the token in its help, but not the token', async ({ expect }) => {
    for (const command of ['create', 'list', 'revoke']) {
      const { stdout } = await runCli(command, '--help')
      expect(stdout).toMatch(/OCTET_ADMIN_TOKEN[\s\S]*OCTET_URL|OCTET_URL[\s\S]*OCTET_ADMIN_TOKEN/)
      expect(stdout).not.toContain(secrets.OCTET_ADMIN_TOKEN)
      expect(stdout).not.toContain(worker.url)
    }
  })

  test('prints secrets that a worker accepts', async ({ expect }) => {
    const { stdout } = await runCli('secrets')
    expect(stdout).toMatch(
      /^KEY_PEPPER='1:[0-9a-f]{64}'\nGPU_SIGNING_KEY='\{.*"d":.*\}'\nOCTET_ADMIN_TOKEN='[0-9a-f]{64}'\nRECEIPT_SIGNING_KEYS='\[\{.*\}\]'\n# For/,
    )
    expect(stdout).toMatch(/# OCTET_EDGE_PUBLIC_KEY='\{(?!.*"d":).*\}'/)
    const file = path.join(persist, 'dev.vars')
    await writeFile(file, stdout)
    const rotated = (await runCli('secrets', '--rotate', file)).stdout
    expect(rotated).toMatch(/^KEY_PEPPER='2:[0-9a-f]{64},1:[0-9a-f]{64}'/)
    expect(rotated.split('\n').at(-3)).toBe(stdout.split('\n').at(-3))
  })
})

describe('a caller of the local worker', () => {
  test('gets an image through real sockets', async ({ expect }) => {
    const key = (await runCli('create', '--account', 'maker')).stdout.trim()
    const reply = (await (await call(key, '/v1/images/generations', { method: 'POST', body })).json()) as {
      data: { url: string }[]
    }
    const file = await fetch(reply.data[0]!.url)
    expect(Buffer.from(await file.arrayBuffer())).toEqual(IMAGE)
  })

  test('can disconnect during the generation and fetch the stored image later', async ({ expect }) => {
    const key = (await runCli('create', '--account', 'leaver')).stdout.trim()
    const leave = new AbortController()
    const idempotent = {
      authorization: `Bearer ${key}`,
      'content-type': 'application/json',
      'idempotency-key': 'leaver-1',
    }
    const held = { method: 'POST', body: JSON.stringify({ prompt: HELD_PROMPT }), headers: idempotent }
    const post = (signal: AbortSignal | null) =>
      fetch(new URL('/v1/images/generations', worker.url), { ...held, signal })
    const gone = post(leave.signal).catch((error: Error) => error.name)
    await vi.waitFor(() => expect(gpu.held()).toBe(1), { timeout: 20_000 })
    expect((await post(null)).status).toBe(409)
    leave.abort()
    expect(await gone).toBe('AbortError')
    gpu.release()
    await vi.waitFor(async () => expect((await post(null)).status).toBe(200), { timeout: 20_000 })
  })
})
