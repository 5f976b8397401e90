// The worker in a local workerd, without an account or a network.
import path from 'node:path'
import type * as z from 'zod'
import type { catalogTable } from '../../../edge/config/catalog.ts'
import { makePrivateDirectory, tightenFile } from '../../command/private-files.ts'
import type { Secrets } from '../../operator/secrets.ts'
import { ROOT } from '../models/package-cache.ts'
import { migrate } from './migrations.ts'

/** An offer of the worker's catalog, which validates it. */
export type LocalCatalog = z.input<typeof catalogTable>
export type LocalOffer = LocalCatalog['offers'][number]

export type LocalWorkerOptions = {
  /** Address of the GPU function, the catalog's endpoint `default`. */
  gpuUrl: string
  /** Directory for the state of R2 and the Durable Objects; made private. */
  persist: string
  /** Skips the migration of D1, because an earlier start has applied it. */
  migrated?: boolean
  secrets: Secrets
  /** Offered models; those of wrangler.toml by default. */
  catalog?: LocalCatalog
  /** Other variables of wrangler.toml, such as GPU_START_SECONDS. */
  vars?: Record<string, string>
  /** 0, the default, is any free port. */
  port?: number
  /** The worker's entry file; edge/index.ts by default. */
  entrypoint?: string
  /** Reload when a source file of the worker changes. */
  watch?: boolean
  /** Level of wrangler's own log; 'error' by default. */
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

/** Sets wrangler's variables in this process's environment, and creates the state with a migrated D1. */
export async function prepareWorker({ persist, migrated, logLevel = 'error' }: LocalWorkerOptions): Promise<void> {
  // Queues ignore the log level of startWorker and follow this variable.
  Object.assign(process.env, OFFLINE, { WRANGLER_LOG: logLevel })
  // Wrangler reads the settings; the state contains API key hashes, webhook secrets, prompts and images.
  await tightenFile(path.join(ROOT, '.dev.vars'), console.warn)
  await makePrivateDirectory(persist)
  if (!migrated) await migrate(persist)
}

/** Starts the worker and waits until it listens on 127.0.0.1. `stop` ends workerd. */
export async function startWorker(options: LocalWorkerOptions): Promise<{ url: string; stop: () => Promise<void> }> {
  await prepareWorker(options)
  const { unstable_startWorker } = await import('wrangler')
  const worker = await unstable_startWorker({
    config: path.join(ROOT, 'wrangler.toml'),
    ...(options.entrypoint && { entrypoint: options.entrypoint }),
    bindings: bindingsOf(options),
    sendMetrics: false,
    // The working directory and the `node` of this process's environment are the caller's.
    build: { custom: { command: `"${process.execPath}" infra/playground/build.ts`, workingDirectory: ROOT } },
    dev: {
      server: { hostname: '127.0.0.1', port: options.port ?? 0, secure: false },
      inspector: false,
      persist: options.persist,
      watch: options.watch ?? false,
      liveReload: false,
      logLevel: options.logLevel ?? 'error',
    },
  })
  await worker.ready
  return { url: (await worker.url).origin, stop: () => worker.dispose() }
}
