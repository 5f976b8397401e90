// The system under test, with a faulty network, customers and a webhook receiver.
import path from 'node:path'
import { randomOf } from '../command/random.ts'
import { addCredit, configureAccount, type Target } from '../operator/keys.ts'
import { callWorker, persistent } from '../system/client.ts'
import { type Customer, openAccount, startSystem } from '../system/system.ts'
import { startChaosProxy } from './faults/chaos-proxy.ts'
import { type Receiver, startReceiver } from './receiver.ts'

const CUSTOMERS = ['customer-0', 'customer-1', 'customer-2', 'customer-3']
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

/** Creates a prepaid account with a key and a webhook endpoint. */
async function openCustomer(target: Target, account: string, receiver: Receiver): Promise<Customer> {
  await configureAccount(target, account, { prepaid: true })
  await addCredit(target, account, 'first', CREDIT, 'campaign')
  const customer = await openAccount(target, account)
  const body = { url: receiver.address(account) }
  const { secret } = await callWorker<{ secret: string }>(persistent, `${target.url}/v1/webhooks`, customer.key, {
    body,
  })
  receiver.expect(account, secret)
  return customer
}

export type World = Awaited<ReturnType<typeof openWorld>>

/** Starts the system. `close` ends all processes and, unless `keep`, deletes their files. */
export async function openWorld(seed: number) {
  const receiver = await startReceiver(randomOf(seed, 'receiver'))
  const system = await startSystem({
    gpus: ['a', 'b'],
    engine: { heartbeatMs: 500, stepMs: 8, unreadMs: UNREAD_MS },
    worker: { vars: VARS, entrypoint: path.join(import.meta.dirname, 'faults/worker-entry.ts') },
    startNetwork: (ports) => startChaosProxy(ports, randomOf(seed, 'network')),
  })
  const close = async (options?: { keep: boolean }) => {
    await system.close(options)
    await receiver.stop()
  }
  try {
    const customers = await Promise.all(CUSTOMERS.map((account) => openCustomer(system.target, account, receiver)))
    return { ...system, customers, receiver, close }
  } catch (error) {
    await close()
    throw error
  }
}
