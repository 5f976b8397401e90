// The worker and GPU functions as processes on this machine, for load and faults. The engine of the GPU functions has no model.
import path from 'node:path'
import { serveLocally } from '../command/local-server.ts'
import { makeScratch } from '../command/scratch.ts'
import type { LocalWorkerOptions } from '../local/servers/worker.ts'
import { createKey, type Target } from '../operator/keys.ts'
import { createSecrets } from '../operator/secrets.ts'
import { createProgram, type Program } from './program.ts'
import type { GpuSettings } from './programs/gpu-program.ts'
import { MODELLESS_OFFER } from './programs/modelless-engine.ts'

type Network = { url: string; stop: () => Promise<void> }
type SystemOptions<Net extends Network> = {
  /** Names of the GPU functions. */
  gpus: readonly string[]
  engine: Pick<GpuSettings, 'heartbeatMs' | 'stepMs' | 'unreadMs'>
  worker: Pick<LocalWorkerOptions, 'vars' | 'entrypoint'>
  /** Starts the network between the worker and the GPU functions at these ports. */
  startNetwork: (ports: readonly number[]) => Promise<Net>
}
/** An account and one of its keys. */
export type Customer = { account: string; key: string }

/** Finds a free port, for a program that keeps its address across restarts. */
export async function findFreePort(): Promise<number> {
  const { port, stop } = await serveLocally()
  await stop()
  return port
}

/** Creates a key with all scopes of an API caller. */
export async function openAccount(target: Target, account: string): Promise<Customer> {
  const { key } = await createKey(target, account, { scopes: ['generate', 'read', 'admin'] })
  return { account, key }
}

/**
 * The worker program. `kill` and `start` apply to workerd only and reuse the first bundle: in production, a restart after a crash does not
 * rebuild the worker either.
 */
function createWorker(program: Program): Program {
  return { ...program, kill: () => program.ask('kill'), start: () => program.ask('start') }
}

/** Starts the system. `close` ends all processes and, unless `keep`, deletes their files. */
export async function startSystem<Net extends Network>(options: SystemOptions<Net>) {
  const { gpus: names, engine, worker: own, startNetwork } = options
  const scratch = makeScratch('octet-system-')
  const { directory } = scratch
  const persist = path.join(directory, 'state')
  const { secrets, gpuPublicKey } = await createSecrets()
  const port = await findFreePort()
  const gpuPorts = await Promise.all(names.map(findFreePort))
  const network = await startNetwork(gpuPorts)
  const gpus = names.map((name, index) => {
    const settings: GpuSettings = { ...engine, name, directory, port: gpuPorts[index]!, edgePublicKey: gpuPublicKey }
    return createProgram('gpu-program.ts', directory, settings)
  })
  const settings: LocalWorkerOptions = {
    ...{ ...own, persist, secrets, port, gpuUrl: network.url },
    catalog: { offers: [MODELLESS_OFFER] },
  }
  const program = createProgram('worker-program.ts', directory, settings)
  const worker = createWorker(program)
  const close = async ({ keep = false } = {}) => {
    await Promise.all([program, ...gpus].map((each) => each.kill()))
    await network.stop()
    if (keep) scratch.keep()
    else await scratch.remove()
  }
  try {
    await Promise.all([program, ...gpus].map((each) => each.start()))
    const target: Target = { url: `http://127.0.0.1:${port}`, token: secrets.OCTET_ADMIN_TOKEN }
    return { directory, persist, target, worker, gpus, gpuPorts, network, close }
  } catch (error) {
    await close()
    throw error
  }
}
