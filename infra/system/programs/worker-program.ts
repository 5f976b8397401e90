// The worker as a separate process, for `createProgram`. Its settings are those of startWorker. The worker is bundled once; on request,
// workerd is killed and restarted.
import { createRequire } from 'node:module'
import path from 'node:path'
import type { Json } from 'miniflare'
import { unstable_getMiniflareWorkerOptions, unstable_readConfig } from 'wrangler'
import { exec } from '../../deploy/exec.ts'
import { ROOT } from '../../local/models/package-cache.ts'
import { type LocalWorkerOptions, prepareWorker } from '../../local/servers/worker.ts'
import { readSettings } from '../program.ts'

// The options below are for wrangler's own version of Miniflare.
const require = createRequire(import.meta.resolve('wrangler'))
const { convertV4MiniflareOptions, Log, LogLevel, Miniflare } = require('miniflare') as typeof import('miniflare')

const ENTRYPOINT = path.join(ROOT, 'edge/index.ts')

/** Bundles the worker as for a deployment. Returns the path of the bundle. */
async function bundle(entrypoint: string, directory: string): Promise<string> {
  // Not minified, for legible names in the log. PATH begins with this process's `node`, for the build.
  const env = { PATH: `${path.dirname(process.execPath)}${path.delimiter}${process.env.PATH}` }
  await exec(['wrangler', 'deploy', entrypoint, '--dry-run', '--no-minify', '--outdir', directory], { env })
  return path.join(directory, `${path.basename(entrypoint, '.ts')}.js`)
}

/** Miniflare options equivalent to those of wrangler's startWorker, without its proxy. */
async function createMiniflareOptions(settings: LocalWorkerOptions) {
  const { entrypoint = ENTRYPOINT, persist, port = 0, gpuUrl, secrets, vars, catalog } = settings
  const script = await bundle(entrypoint, path.join(persist, '../bundle'))
  const config = unstable_readConfig({ config: path.join(ROOT, 'wrangler.toml') })
  const { workerOptions } = unstable_getMiniflareWorkerOptions(config)
  const own = { ...vars, ...secrets, GPU_URL: gpuUrl, ...(catalog && { OCTET_CATALOG: catalog }) }
  const bindings = { ...(workerOptions.bindings as object), ...own } as Record<string, Json>
  return convertV4MiniflareOptions({
    host: '127.0.0.1',
    port,
    resourcePersistencePath: path.join(persist, 'v3'),
    log: new Log(LogLevel.ERROR),
    logRequests: false,
    handleStructuredLogs: ({ level, message }) => level === 'error' && console.error(message),
    workers: [
      {
        ...workerOptions,
        name: config.name!,
        modulesRoot: path.dirname(script),
        modules: [{ type: 'ESModule', path: script }],
        bindings,
      },
    ],
  })
}

const settings = readSettings<LocalWorkerOptions>()
await prepareWorker(settings)
const options = await createMiniflareOptions(settings)
let miniflare: InstanceType<typeof Miniflare> | null = null

const requests = {
  async start() {
    miniflare ??= new Miniflare(options)
    await miniflare.ready
  },
  /** Disposal sends SIGKILL to workerd and waits for its end. */
  async kill() {
    await miniflare?.dispose()
    miniflare = null
  },
}

process.on('message', async (request: keyof typeof requests) => {
  await requests[request]()
  process.send!(request)
})
await requests.start()
process.send!('ready')
