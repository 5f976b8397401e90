// The whole system on this machine: GPU function, worker, and an account with an API key.
import { enableCompileCache } from 'node:module'
import { BUILT_IN_MODELS, type BuiltInModel, prepareBuiltInPackages, SERVED_TIERS } from './models/built-in-model.ts'
import { COMPILE_CACHE } from './models/package-cache.ts'
import { startGpu } from './servers/gpu.ts'
import { assertFree, findFreePort } from './servers/ports.ts'
import { openKey, openState } from './servers/state.ts'
import { type LocalCatalog, type LocalOffer, startWorker } from './servers/worker.ts'

export type Local = {
  url: string
  key: string
  /** The operator token for `npm run keys` and `npm run job`. */
  adminToken: string
  /** Duration of each part of the start, in seconds; the GPU function and the worker start at the same time. */
  seconds: { compile: number; gpu: number; worker: number }
  /** Resolves with the reason when the GPU function has ended. */
  gpuEnded: Promise<string>
  stop: () => Promise<void>
}

/** The served models. */
export type LocalModels = {
  /** Directory of packages. */
  packages: string
  /** Models to warm up before readiness, model:tier. */
  preload: readonly string[]
  /** Offers of the worker; those of wrangler.toml unless given. */
  offers?: LocalOffer[]
  /** Adapters of the offers, in `loras` of the packages. */
  loras?: LocalCatalog['loras']
  /** ControlNets of the offers, in `controlnets` of the packages. */
  controlnets?: LocalCatalog['controlnets']
}

type LocalOptions = {
  /** The built-in models unless given. */
  models?: LocalModels
  /** Compiles the built-in models in one tier, and loads only this one before readiness. */
  only?: BuiltInModel
  /** Port of the worker; any free one by default. With `watch`, the GPU function uses the next port. */
  port?: number
  watch?: boolean
  /** Directory of the state with its secrets and key, kept between starts; a temporary one by default. */
  state?: string
  /** Limit of GPU memory in GiB. */
  vram?: string
  onLog?: (line: string) => void
}

/** The built-in models in the tiers of wrangler.toml; in the first tier if only one of them is loaded. */
async function prepareBuiltInModels(only?: BuiltInModel): Promise<LocalModels & { seconds: number }> {
  const [first] = SERVED_TIERS
  const { directory, seconds } = await prepareBuiltInPackages(only ? [first] : SERVED_TIERS)
  const loaded = only ? [only] : BUILT_IN_MODELS
  return { packages: directory, preload: loaded.map((model) => `${model}:${first}`), seconds }
}

/** Throws if a port of the options is taken. Returns the ports of the worker and of the GPU function. */
async function choosePorts({ port, watch }: LocalOptions): Promise<{ worker: number; gpu: number }> {
  const advice = 'choose another one with --port'
  if (port !== undefined) await assertFree(port, advice)
  // A GPU function that reloads must keep its address.
  if (port === undefined || !watch) return { worker: port ?? 0, gpu: await findFreePort() }
  await assertFree(port + 1, `the GPU function uses the port after the worker's; ${advice}`)
  return { worker: port, gpu: port + 1 }
}

/** The address of the page with the key. The page takes the key from the fragment, which is not sent to the server. */
export const pageOf = ({ url, key }: Local) => `${url}/#key=${key}`

const catalogOf = (offers: LocalOffer[], { loras, controlnets }: LocalModels): LocalCatalog => ({
  offers,
  ...(loras && { loras }),
  ...(controlnets && { controlnets }),
})

/** The GPU function of this machine is always warm, so pings are free. */
const ALWAYS_ON = { idle_seconds: 3600, start_seconds: 1, budget_seconds: 86_400 }

/** Starts all parts at the same time. If one fails, stops those that were started. */
export async function startLocal(options: LocalOptions = {}): Promise<Local> {
  // wrangler has megabytes of source.
  enableCompileCache(COMPILE_CACHE)
  const ports = await choosePorts(options)
  const state = await openState(options.state)
  const gpuUrl = `http://127.0.0.1:${ports.gpu}`
  const gpu = startModels(options, ports.gpu, state.gpuPublicKey)
  const workerClock = startClock()
  const worker = startWorker({
    gpuUrl,
    persist: state.directory,
    secrets: state.secrets,
    vars: { WEBHOOK_LOCAL: 'true', OCTET_PREWARM: JSON.stringify(ALWAYS_ON) },
    port: ports.worker,
    watch: options.watch ?? false,
    logLevel: options.watch ? 'log' : 'error',
    ...(options.models?.offers && { catalog: catalogOf(options.models.offers, options.models) }),
  }).then((started) => ({ ...started, seconds: workerClock() }))
  const stop = async () => {
    const started = await Promise.allSettled([worker, gpu])
    await Promise.all(started.map((part) => part.status === 'fulfilled' && part.value.stop()))
    await state.discard()
  }
  try {
    const [{ url, seconds }, { compile, seconds: gpuSeconds, ended: gpuEnded }] = await Promise.all([worker, gpu])
    const key = await openKey(state, url)
    const { OCTET_ADMIN_TOKEN: adminToken } = state.secrets
    return { url, key, adminToken, seconds: { compile, gpu: gpuSeconds, worker: seconds }, gpuEnded, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Compiles the built-in models unless others are given, and starts the GPU function. */
async function startModels({ models, only, watch, vram, onLog }: LocalOptions, port: number, edgePublicKey: string) {
  const { packages, preload, seconds: compile } = models ? { ...models, seconds: 0 } : await prepareBuiltInModels(only)
  const gpuClock = startClock()
  const gpu = await startGpu({
    ...{ packages, edgePublicKey, preload: preload.join(), port },
    ...(watch && { nodeFlags: ['--watch', '--watch-preserve-output'] }),
    ...(vram !== undefined && { vram }),
    ...(onLog && { onLog }),
  })
  return { ...gpu, compile, seconds: gpuClock() }
}

function startClock(): () => number {
  const start = performance.now()
  return () => (performance.now() - start) / 1000
}
