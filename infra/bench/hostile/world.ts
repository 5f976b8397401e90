// The deployment under test: the worker and one GPU function, whose engine has a fixed step time, and test accounts.

import { createKey, revokeKey, type Target } from '../../operator/keys.ts'
import { openAccount, startSystem } from '../../system/system.ts'

/** Slow enough that the GPU function, not this machine, is the bottleneck. */
export const STEP_MS = 80
const HONEST_ACCOUNTS = 6

/** Creates honest and hostile accounts, all with default limits. */
async function openAccounts(target: Target) {
  const names = Array.from({ length: HONEST_ACCOUNTS }, (_, index) => `honest-${index}`)
  const honest = await Promise.all(names.map((name) => openAccount(target, name)))
  const [flood, hooks] = [await openAccount(target, 'flood'), await openAccount(target, 'hooks')]
  const { key: revoked, id } = await createKey(target, 'revoked')
  await revokeKey(target, 'revoked', id)
  return { honest, flood: flood.key, hooks: hooks.key, revoked }
}

export type HostileWorld = Awaited<ReturnType<typeof openHostileWorld>>

/** Starts all processes; `close` ends them and deletes their files. */
export async function openHostileWorld() {
  const { target, worker, gpus, persist, close } = await startSystem({
    gpus: ['gpu'],
    engine: { heartbeatMs: 4000, stepMs: STEP_MS, unreadMs: 10_000 },
    worker: { vars: { WEBHOOK_LOCAL: 'true' } },
    startNetwork: async ([port]) => ({ url: `http://127.0.0.1:${port}`, stop: async () => {} }),
  })
  try {
    const accounts = await openAccounts(target)
    const listProcesses = () => ({ worker: worker.pid()!, gpu: gpus[0]!.pid()!, persist })
    return { url: target.url, accounts, processes: listProcesses, close }
  } catch (error) {
    await close()
    throw error
  }
}
