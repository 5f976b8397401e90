// The whole system on this machine: GPU function, worker, and an account with an API key.
import { rmSync } from 'node:fs'
import fs from 'node:fs/promises'
import path from 'node:path'
import { createKey } from '../operator/keys.ts'
import { createSecrets } from '../operator/secrets.ts'
import { BUILT_IN_MODELS, builtInPackages, SERVED_TIERS } from './built-in-model.ts'
import { startGpu } from './gpu.ts'
import { startWorker } from './worker.ts'

export type Local = {
  url: string
  key: string
  /** The operator token for `npm run keys` and `npm run job`. */
  adminToken: string
  /** Duration of each part of the start, in seconds. */
  seconds: { compile: number; gpu: number; worker: number }
  stop: () => Promise<void>
}
export type LocalOptions = {
  /** Port of the worker; any free one by default. With `watch`, the GPU function uses the next port. */
  port?: number
  watch?: boolean
  persist?: string
  onLog?: (line: string) => void
}

/** The GPU function of this machine does not stop, so that a ping, which costs nothing here, finds it warm. */
const ALWAYS_ON = { idle_seconds: 3600, start_seconds: 1, budget_seconds: 86_400 }

/** The address of the page with the key. The page takes the key from the fragment, which is not sent to the server. */
export const pageOf = ({ url, key }: Local) => `${url}/#key=${key}`

/** Starts all parts with the built-in models. If one fails, stops those that were started. */
export async function startLocal(options: LocalOptions = {}): Promise<Local> {
  const stops: (() => Promise<unknown>)[] = []
  const stop = async () => {
    for (const each of stops.splice(0).reverse()) await each()
  }
  try {
    const packages = await builtInPackages()
    const { secrets, gpuPublicKey } = await createSecrets()
    const preload = BUILT_IN_MODELS.map((model) => `${model}:${SERVED_TIERS[0]}`).join()
    // A GPU function that reloads must keep its address.
    const watch = options.watch
      ? { nodeFlags: ['--watch', '--watch-preserve-output'], port: (options.port ?? 8787) + 1 }
      : {}
    const gpuClock = clock()
    const gpu = await startGpu({
      packages: packages.directory,
      edgePublicKey: gpuPublicKey,
      preload,
      ...watch,
      ...(options.onLog && { onLog: options.onLog }),
    })
    stops.push(gpu.stop)
    const gpuSeconds = gpuClock()

    const workerClock = clock()
    const persist = options.persist ?? (await fs.mkdtemp(path.join(import.meta.dirname, '../../.octet/state-')))
    if (!options.persist) stops.push(() => fs.rm(persist, { recursive: true }))
    const worker = await startWorker({
      gpuUrl: gpu.url,
      persist,
      secrets,
      vars: { WEBHOOK_LOCAL: 'true', OCTET_PREWARM: JSON.stringify(ALWAYS_ON) },
      port: options.port ?? 0,
      watch: options.watch ?? false,
      logLevel: options.watch ? 'log' : 'error',
    })
    stops.push(worker.stop)
    // After a signal, wrangler's own handler has already ended workerd.
    if (!options.persist) process.once('exit', () => rmSync(persist, { recursive: true, force: true, maxRetries: 5 }))
    const { key } = await createKey({ url: worker.url, token: secrets.OCTET_ADMIN_TOKEN }, 'local', {
      label: 'created at start',
      scopes: ['generate', 'read', 'admin'],
    })
    return {
      url: worker.url,
      key,
      adminToken: secrets.OCTET_ADMIN_TOKEN,
      seconds: { compile: packages.seconds, gpu: gpuSeconds, worker: workerClock() },
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

function clock(): () => number {
  const start = performance.now()
  return () => (performance.now() - start) / 1000
}
