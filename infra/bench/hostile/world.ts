// The deployment under test: the real worker in workerd, the real GPU function with an engine of fixed step time, and test accounts.
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import type { Customer } from '../../campaign/callers.ts'
import { type Program, programOf } from '../../campaign/program.ts'
import type { GpuSettings } from '../../campaign/programs/gpu-program.ts'
import { MODELLESS_OFFER } from '../../campaign/programs/modelless-engine.ts'
import { freePort } from '../../campaign/world.ts'
import type { LocalWorkerOptions } from '../../local/worker.ts'
import { createKey, revokeKey, type Target } from '../../operator/keys.ts'
import { createSecrets } from '../../operator/secrets.ts'

/** Slow enough that the GPU function, not this machine, is the bottleneck. */
export const STEP_MS = 80
const HONEST_ACCOUNTS = 6

/** Starts the programs in sequence, each once the previous one is ready. */
async function startAll(programs: readonly Program[]): Promise<void> {
  for (const program of programs) await program.start()
}

/** Creates honest and hostile accounts, all with default limits. */
async function openAccounts(target: Target) {
  const customerOf = async (account: string): Promise<Customer> => {
    const { key } = await createKey(target, account, { scopes: ['generate', 'read', 'admin'] })
    return { account, key }
  }
  const names = Array.from({ length: HONEST_ACCOUNTS }, (_, index) => `honest-${index}`)
  const honest = await Promise.all(names.map(customerOf))
  const [flood, hooks] = [await customerOf('flood'), await customerOf('hooks')]
  const { key: revoked, id } = await createKey(target, 'revoked')
  await revokeKey(target, 'revoked', id)
  return { honest, flood: flood.key, hooks: hooks.key, revoked }
}

export type HostileWorld = Awaited<ReturnType<typeof openHostileWorld>>

/** Starts all processes; `close` ends them and deletes their files. */
export async function openHostileWorld() {
  const directory = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-hostile-'))
  const { secrets, gpuPublicKey } = await createSecrets()
  const [port, gpuPort] = [await freePort(), await freePort()]
  const gpuSettings: GpuSettings = {
    ...{ name: 'gpu', directory, port: gpuPort, edgePublicKey: gpuPublicKey },
    ...{ heartbeatMs: 4000, stepMs: STEP_MS, unreadMs: 10_000 },
  }
  const settings: LocalWorkerOptions = {
    ...{ gpuUrl: `http://127.0.0.1:${gpuPort}`, persist: path.join(directory, 'state'), secrets, port },
    ...{ catalog: { offers: [MODELLESS_OFFER] }, vars: { WEBHOOK_LOCAL: 'true' } },
  }
  const gpu = programOf('gpu-program.ts', directory, gpuSettings)
  const worker = programOf('worker-program.ts', directory, settings)
  const close = async () => {
    await Promise.all([worker.kill(), gpu.kill()])
    await fs.rm(directory, { recursive: true, force: true, maxRetries: 5 })
  }
  try {
    await startAll([gpu, worker])
    const target = { url: `http://127.0.0.1:${port}`, token: secrets.OCTET_ADMIN_TOKEN }
    const accounts = await openAccounts(target)
    const watched = () => ({ worker: worker.pid()!, gpu: gpu.pid()!, persist: settings.persist })
    return { url: target.url, accounts, watched, close }
  } catch (error) {
    await close()
    throw error
  }
}
