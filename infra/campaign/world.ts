// The system under test: the worker and two GPU functions as processes, the network between them, customers, and a webhook receiver.
import { once } from 'node:events'
import fs from 'node:fs/promises'
import { createServer } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import type { LocalWorkerOptions } from '../local/worker.ts'
import { addCredit, configureAccount, createKey, type Target } from '../operator/keys.ts'
import { createSecrets } from '../operator/secrets.ts'
import type { Customer } from './callers.ts'
import { ask, persistent } from './client.ts'
import { startChaosProxy } from './faults/chaos-proxy.ts'
import { createProgram } from './program.ts'
import type { GpuSettings } from './programs/gpu-program.ts'
import { MODELLESS_OFFER } from './programs/modelless-engine.ts'
import { randomOf } from './random.ts'
import { type Receiver, startReceiver } from './receiver.ts'

const CUSTOMERS = 4
const GPUS = ['a', 'b'] as const
/** Time after which a run without a reader is canceled. */
export const UNREAD_MS = 2_000
const CREDIT = 1_000_000_000
/** Variables of wrangler.toml, with timeouts of seconds instead of minutes. */
const VARS = {
  OCTET_ACCOUNT_LIMITS: '{"concurrent_jobs": 200}',
  GPU_SLOTS: '1',
  OCTET_RECOVERY: '{"job_seconds": 3, "reservation_seconds": 6, "usage_seconds": 3}',
  ...{ GPU_START_SECONDS: '30', GPU_SILENCE_SECONDS: '2', GPU_RUN_SECONDS: '15', GPU_RETRY_SECONDS: '0.2' },
  ...{ WEBHOOK_LOCAL: 'true', WEBHOOK_TIMEOUT_SECONDS: '1', WEBHOOK_RETRY_SECONDS: Array(60).fill('0.3').join() },
  WEBHOOK_BREAKER_SECONDS: '0.05',
}

/** Finds a free port, for a program that keeps its address across restarts. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

/** Creates prepaid accounts, each with a key and a webhook endpoint. */
async function openAccounts(target: Target, receiver: Receiver): Promise<Customer[]> {
  const customers = Array.from({ length: CUSTOMERS }, async (_, index) => {
    const account = `customer-${index}`
    await configureAccount(target, account, { prepaid: true })
    await addCredit(target, account, 'first', CREDIT, 'campaign')
    const { key } = await createKey(target, account, { scopes: ['generate', 'read', 'admin'] })
    const body = { url: receiver.address(account) }
    const { secret } = await ask<{ secret: string }>(persistent, `${target.url}/v1/webhooks`, key, {
      method: 'POST',
      body,
    })
    receiver.expect(account, secret)
    return { account, key }
  })
  return Promise.all(customers)
}

export type World = Awaited<ReturnType<typeof openWorld>>

/** Starts the system. `close` ends all processes and, unless `keep`, deletes their files. */
export async function openWorld(seed: number) {
  const directory = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-campaign-'))
  const persist = path.join(directory, 'state')
  const { secrets, gpuPublicKey } = await createSecrets()
  const port = await freePort()
  const gpuPorts = await Promise.all(GPUS.map(freePort))
  const proxy = await startChaosProxy(gpuPorts, randomOf(seed, 'network'))
  const receiver = await startReceiver(randomOf(seed, 'receiver'))
  const gpuSettings = { directory, edgePublicKey: gpuPublicKey, heartbeatMs: 500, stepMs: 8, unreadMs: UNREAD_MS }
  const settings: LocalWorkerOptions = {
    entrypoint: path.join(import.meta.dirname, 'programs/worker-entry.ts'),
    gpuUrl: proxy.url,
    persist,
    secrets,
    catalog: { offers: [MODELLESS_OFFER] },
    vars: VARS,
    port,
  }
  const gpus = GPUS.map((name, index) => {
    const own: GpuSettings = { ...gpuSettings, name, port: gpuPorts[index]! }
    return createProgram('gpu-program.ts', directory, own)
  })
  const fresh = createProgram('worker-program.ts', directory, settings)
  const worker = createProgram('worker-program.ts', directory, { ...settings, migrated: true })
  const close = async ({ keep = false } = {}) => {
    await Promise.all([fresh, worker, ...gpus].map((program) => program.kill()))
    await proxy.stop()
    await receiver.stop()
    if (!keep) await fs.rm(directory, { recursive: true, force: true, maxRetries: 5 })
  }
  try {
    await Promise.all([fresh, ...gpus].map((program) => program.start()))
    await fresh.kill()
    await worker.start()
    const target = { url: `http://127.0.0.1:${port}`, token: secrets.OCTET_ADMIN_TOKEN }
    const customers = await openAccounts(target, receiver)
    return { directory, persist, target, customers, worker, gpus, gpuPorts, proxy, receiver, close }
  } catch (error) {
    await close()
    throw error
  }
}
