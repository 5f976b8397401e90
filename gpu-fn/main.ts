// `node gpu-fn/main.ts [--vram GIGABYTES]`: the GPU function. Listens at once, answers 503 until its models are ready, drains on SIGTERM.
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { parseArgs } from 'node:util'
import { getRequestListener } from '@hono/node-server'
import { type Logger, pino } from 'pino'
import { type Config, ConfigError, readConfig } from './config.ts'
import { escapeText } from './contract.ts'
import type { Signer } from './credentials/signer.ts'
import { withCredentials } from './credentials/signing-engine.ts'
import type { Engine, Model } from './engine/engine.ts'
import { PackageEngine } from './engine/package-engine.ts'
import type { Part } from './engine/start/parts.ts'
import type { Stall } from './engine/watchdog.ts'
import type { Size } from './pipeline/pipeline.ts'
import { exitNow } from './server/exit-now.ts'
import { Jobs, type Lifecycle } from './server/jobs.ts'
import { createMetrics, type Metrics } from './server/observability/metrics.ts'
import type { Tracing } from './server/observability/tracing.ts'
import { type Observer, observeWith } from './server/observer.ts'
import { createApp } from './server/server.ts'
import { packageSource } from './weights/package-source.ts'
import { Verifier } from './weights/verification.ts'

/** Idle connections are closed after this time; heartbeats keep those with a reader active. */
const SOCKET_IDLE_MS = 60_000
const RECEIVE_REQUEST_MS = 30_000
const CLOSE_IDLE_MS = 50
const EXPIRY_NOTICE_MS = 30 * 24 * 3600 * 1000
/** npm repeats the terminal's SIGINT a millisecond later. A signal within this time of the first one is such a repetition. */
const REPEATED_SIGNAL_MS = 1_000
const TOO_LITTLE_MEMORY =
  'the models of OCTET_PRELOAD exceed the memory, so jobs wait while one replaces another: preload fewer models, or choose a larger GPU'
/** Escapes a line of the log for terminals; it stays JSON of the same value. */
const streamWrite = (line: string) => `${escapeText(line.trimEnd())}\n`
const USAGE = `Usage: gpu [--vram GIGABYTES]

The GPU function. --vram limits its device memory; all other options are environment variables, described in gpu-fn/config.ts.`

type Service = {
  metrics: Metrics
  observers: (Observer | Tracing)[]
  config: Config
  log: Logger
  lifecycle: Lifecycle
  engine: Engine
  jobs: Jobs
  server: Server
}

async function main(): Promise<void> {
  const config = readConfigOrExit()
  // Synchronous, so that the last lines before an exit are not lost.
  const log = pino({ level: config.logLevel, hooks: { streamWrite } }, pino.destination({ dest: 1, sync: true }))
  if (!config.edgePublicKeys) log.warn('OCTET_INSECURE=1: every program on this machine may send jobs')
  const signer = await openCredentials(config, log).catch((error) => fail(log, error))
  const service = createService(config, log, signer)
  service.server.on('error', (error) => fail(log, error))
  drainOnSignals(service)
  warmUp(service).catch((error) => {
    if (!isOver(service.lifecycle)) fail(log, error)
  })
}

/** The first signal drains; a later one, unless it is a repetition, ends the process at once. */
function drainOnSignals(service: Service): void {
  let first: number | undefined
  const receive = (signal: string) => {
    const now = performance.now()
    first ??= now
    if (now > first && now - first < REPEATED_SIGNAL_MS) return
    void shutDown(service, signal, 0)
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, receive)
}

function readConfigOrExit(): Config {
  try {
    const { vram, help } = parseArgs({
      options: { vram: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    }).values
    if (help) {
      console.log(USAGE)
      process.exit()
    }
    return readConfig({ ...process.env, ...(vram !== undefined && { OCTET_VRAM_GB: vram }) })
  } catch (error) {
    if (!(error instanceof ConfigError || isFlagError(error))) throw error
    console.error(error.message)
    process.exit(2)
  }
}

/** An error of `parseArgs`: an unknown flag, or one without its value. */
const isFlagError = (error: unknown): error is Error =>
  error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS')

/** Loads the signer of content credentials. Returns null, without loading its library, if none are configured. */
async function openCredentials({ credentials }: Config, log: Logger): Promise<Signer | null> {
  if (!credentials) return null
  const { openSigner } = await import('./credentials/signer.ts')
  const signer = await openSigner(credentials)
  const { subject, expires } = signer
  const remaining = expires.getTime() - Date.now()
  if (remaining < EXPIRY_NOTICE_MS)
    log.warn({ subject, expires }, 'the certificate of content credentials expires soon; all jobs will then fail')
  else log.info({ subject, expires }, 'images get content credentials')
  return signer
}

function createService(config: Config, log: Logger, signer: Signer | null): Service {
  const lifecycle: Lifecycle = { status: 'loading' }
  const verifier = new Verifier({ directory: config.cache, log })
  const onStall = (stall: Stall) => void endHung(service, stall)
  const unsigned = new PackageEngine({
    ...{ ...config, ...packageSource(config, verifier, log), verifier, onStall, log },
    ...(config.sequentialStart && { preload: [], mapsWeights: true }),
  })
  const engine = signer ? withCredentials(unsigned, signer) : unsigned
  const onBroken = () => {
    if (!isOver(lifecycle)) void shutDown(service, 'the engine no longer works', 1)
  }
  const metrics = createMetrics()
  const observers: (Observer | Tracing)[] = [metrics]
  const observer = observeWith(observers)
  const jobs = new Jobs({ engine, lifecycle, log, onBroken, observer, ...config })
  metrics.watch(jobs, lifecycle)
  const { edgePublicKeys, metricsToken: token } = config
  const served = { text: metrics.text, token }
  const app = createApp({ jobs, engine, lifecycle, log, edgePublicKeys, observer, metrics: served })
  const server = createServer({ requestTimeout: RECEIVE_REQUEST_MS }, getRequestListener(app.fetch))
  server.setTimeout(SOCKET_IDLE_MS)
  server.listen(config.port, config.host, () => {
    const { address, port } = server.address() as AddressInfo
    log.info({ host: address, port }, 'listening')
  })
  const service = { metrics, observers, config, log, lifecycle, engine, jobs, server }
  return service
}

async function warmUp(service: Service): Promise<void> {
  const { config, log, lifecycle, engine, metrics, observers } = service
  // The SDK takes 0.1 s to load, so a process without a receiver does not load it.
  if (config.traces !== null)
    observers.push((await import('./server/observability/tracing.ts')).createTracing(config.traces))
  await engine.start()
  const loaded: Model[] = []
  for (const [name, tier] of config.preload) {
    const model = engine.models.find((candidate) => candidate.model === name && candidate.tier === tier)
    if (!model) throw new Error(`OCTET_PRELOAD lists ${name}:${tier}, which is not among the packages`)
    if (isOver(lifecycle)) return
    const { parts = [], closed = [], ...about } = await engine.load(model, undefined, createWarmOption(config))
    const { device, seconds, networks } = about
    log.info({ model: name, tier, device, seconds, networks, parts: parts.map(describePart) }, 'model loaded')
    if (closed.length > 0) log.error({ model: `${name}:${tier}`, closed }, TOO_LITTLE_MEMORY)
    loaded.push(model)
    if (isOver(lifecycle)) return
    if (config.sequentialStart) await warmFirst(service, model)
  }
  await engine.waitForDownloads?.()
  if (isOver(lifecycle)) return
  lifecycle.status = 'ready'
  metrics.ready(process.uptime())
  log.info({ models: engine.models.map(({ model, tier }) => `${model}:${tier}`) }, 'ready')
  if (config.sequentialStart) return
  for (const model of loaded) await warmRest(service, model)
}

const createWarmOption = ({ sequentialStart, warm }: Config) => (sequentialStart ? undefined : { sizes: warm })

/** A part, in seconds since the start of this process. */
function describePart({ part, start, end }: Part) {
  const [from, to] = [start, end].map((time) => Math.round(time - performance.timeOrigin) / 1000)
  return { part, from, to }
}

/** Generates images of all sizes of OCTET_WARM before the process is ready. */
async function warmFirst({ config, log, engine }: Service, model: Model): Promise<void> {
  const start = performance.now()
  const { sizes } = await engine.warm(model, config.warm)
  logWarmModel(log, model, start, sizes)
}

/** Generates images of all sizes of OCTET_WARM, with and without guidance, while no job runs. */
async function warmRest({ config, log, jobs, lifecycle }: Service, model: Model): Promise<void> {
  const start = performance.now()
  const sizes: Size[] = []
  for (const size of config.warm ?? [undefined]) {
    sizes.push(...((await jobs.warm(model, size && [size])) ?? []))
    if (isOver(lifecycle)) return
  }
  logWarmModel(log, model, start, sizes)
}

function logWarmModel(log: Logger, { model, tier }: Model, start: number, sizes: readonly Size[]): void {
  log.info({ model, tier, seconds: (performance.now() - start) / 1000, sizes }, 'model warm')
}

/** Refuses new jobs, finishes accepted ones, waits for their readers, and exits. */
async function shutDown(
  { config, log, lifecycle, engine, jobs, server, observers }: Service,
  reason: string,
  code: 0 | 1,
) {
  if (isOver(lifecycle)) return abandon(log, jobs, 'a second signal')
  log.info({ reason, ...jobs.counts() }, 'draining')
  lifecycle.status = code === 0 ? 'draining' : 'failed'
  setTimeout(abandon, config.drainSeconds * 1000, log, jobs, 'the drain timeout has expired')
  await jobs.waitUntilIdle()
  const closed = once(server, 'close')
  server.close()
  // Without this, connections would be kept alive for seconds after their last reply.
  setInterval(() => server.closeIdleConnections(), CLOSE_IDLE_MS)
  await closed
  await engine.stop()
  for (const observer of observers) if ('stop' in observer) await observer.stop()
  log.info('stopped')
  process.exit(code)
}

function isOver({ status }: Lifecycle): boolean {
  return status === 'draining' || status === 'failed'
}

/** An engine call hangs. No job can finish in this process, so it ends; jobs run elsewhere and the host starts a new process. */
async function endHung({ log, lifecycle, jobs }: Service, stall: Stall): Promise<void> {
  lifecycle.status = 'failed'
  log.fatal({ ...stall, ...jobs.counts() }, 'the engine has hung; the process ends')
  await exitNow(1)
}

/** Ends the process immediately. `process.exit` would destroy onnxruntime's state while a thread uses it, and crash. */
function abandon(log: Logger, jobs: Jobs, reason: string): void {
  log.error({ reason, ...jobs.counts() }, 'jobs are abandoned')
  process.kill(process.pid, 'SIGKILL')
}

function fail(log: Logger, error: unknown): never {
  log.fatal({ err: error }, 'the GPU function cannot start')
  process.exit(1)
}

await main()
