// The real worker in the real workerd on this machine, without an account and without network.
import { execFile } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'
import { makePrivateDirectory, tightenFile } from '../command/private-files.ts'
import type { Secrets } from '../operator/secrets.ts'

/** An offer of edge/config/catalog.ts; checked by the worker when it first reads it. */
export type LocalOffer = {
  route: 'turbo' | 'full'
  model: string
  tier: string
  steps: number
  guidance_scale: number
  width: number
  height: number
  max_pixels: number
}

export type LocalWorkerOptions = {
  /** Address of the GPU function, the catalog's endpoint `default`. */
  gpuUrl: string
  /** Directory for the state of R2 and the Durable Objects; made private. */
  persist: string
  /** The D1 database of that directory is up to date: another start has seen to it. */
  migrated?: boolean
  secrets: Secrets
  /** What is served; wrangler.toml's when left out. */
  catalog?: { offers: LocalOffer[] }
  /** Other variables of wrangler.toml, such as GPU_START_SECONDS. */
  vars?: Record<string, string>
  /** 0, the default, is any free port. */
  port?: number
  /** The worker's entry file; edge/index.ts by default. */
  entrypoint?: string
  /** Reload when a source file of the worker changes. */
  watch?: boolean
  /** What of wrangler's own log is shown: 'error' by default, so that it stays quiet. */
  logLevel?: 'error' | 'log'
}

const text =
  (type: 'plain_text' | 'secret_text') =>
  ([name, value]: [string, string]) =>
    [name, { type, value }] as const

/** Variables and secrets in the form that wrangler binds them. */
function bindingsOf({ gpuUrl, secrets, catalog, vars = {} }: LocalWorkerOptions) {
  return Object.fromEntries([
    ...Object.entries({ ...vars, GPU_URL: gpuUrl }).map(text('plain_text')),
    ...Object.entries(secrets).map(text('secret_text')),
    ...(catalog ? [['OCTET_CATALOG', { type: 'json', value: catalog }] as const] : []),
  ])
}

/** Wrangler reads these when it is loaded: no metrics, no log files in the home directory, no look-up of `request.cf`. */
const OFFLINE = { WRANGLER_SEND_METRICS: 'false', WRANGLER_WRITE_LOGS: 'false', CLOUDFLARE_CF_FETCH_ENABLED: 'false' }

const root = path.join(import.meta.dirname, '../..')

/** Brings the D1 database of a directory up to edge/migrations/. What was applied before is left alone. */
async function migrate(persist: string): Promise<void> {
  const wrangler = path.join(root, 'node_modules/wrangler/bin/wrangler.js')
  const command = ['d1', 'migrations', 'apply', 'DB', '--local', '--persist-to', persist]
  await promisify(execFile)(process.execPath, [wrangler, ...command], { cwd: root, env: { ...process.env, CI: '1' } })
}

/** Starts the worker and waits until it listens on 127.0.0.1. `stop` ends workerd; nothing is left running. */
export async function startWorker(options: LocalWorkerOptions): Promise<{ url: string; stop: () => Promise<void> }> {
  const logLevel = options.logLevel ?? 'error'
  // What queues log escapes the worker's own level: it is told by this one.
  Object.assign(process.env, OFFLINE, { WRANGLER_LOG: logLevel })
  // Wrangler reads the settings; the state contains API key hashes, webhook secrets, prompts and images.
  await tightenFile(path.join(root, '.dev.vars'), console.warn)
  await makePrivateDirectory(options.persist)
  if (!options.migrated) await migrate(options.persist)
  const { unstable_startWorker } = await import('wrangler')
  const worker = await unstable_startWorker({
    config: path.join(root, 'wrangler.toml'),
    ...(options.entrypoint && { entrypoint: options.entrypoint }),
    bindings: bindingsOf(options),
    sendMetrics: false,
    dev: {
      server: { hostname: '127.0.0.1', port: options.port ?? 0, secure: false },
      inspector: false,
      persist: options.persist,
      watch: options.watch ?? false,
      liveReload: false,
      logLevel,
    },
  })
  await worker.ready
  return { url: (await worker.url).origin, stop: () => worker.dispose() }
}
