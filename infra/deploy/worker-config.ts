// The wrangler configuration of a deployment: wrangler.toml with the names, the offers and the variables of its own configuration.
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { writePrivateFile } from '../command/private-files.ts'
import type { DeployConfig } from '../config.ts'
import { ROOT } from '../local/models/package-cache.ts'
import { createSecrets } from '../operator/secrets.ts'
import { UNKNOWN } from './plan.ts'

/** The address of a GPU function that is not deployed yet; the deployment replaces it before it deploys the worker. */
const PLACEHOLDER = 'https://gpu.invalid'

/** A URL, because the worker's types are those of workerd, which the types of Node contradict. */
const WORKER_SCHEMA = new URL('../../edge/config.ts', import.meta.url).href

type Binding = Record<string, unknown>
/** The parts of wrangler.toml that differ between deployments. */
type Raw = {
  $schema?: string
  main: string
  alias: Record<string, string>
  build: Record<string, string>
  assets: { directory: string }
  vars: Record<string, unknown>
  ratelimits: (Binding & { namespace_id: string })[]
  d1_databases: Binding[]
  queues: { producers: Binding[]; consumers: Binding[] }
  r2_buckets: Binding[]
  analytics_engine_datasets: Binding[]
}

/** Variables that follow from other parts of the configuration. */
const DERIVED = { GPU_URL: '--gpu-url', GPU_SLOTS: 'gpu.max_containers', OCTET_CATALOG: 'worker.offers' } as const

/** The wrangler configuration of a deployment. Throws an Error that lists every variable that the worker would reject. */
export async function workerConfigOf({ worker, gpu }: DeployConfig, gpuUrl: string): Promise<object> {
  const { experimental_readRawConfig } = await import('wrangler')
  const { $schema, ...raw } = experimental_readRawConfig({ config: path.join(ROOT, 'wrangler.toml') })
    .rawConfig as unknown as Raw
  const derived = Object.keys(worker.vars).find((name) => name in DERIVED)
  if (derived) throw new Error(`worker.vars.${derived} follows from ${DERIVED[derived as keyof typeof DERIVED]}`)
  const { name, offers, aliases, loras, controlnets, endpoints, domain, logpush, tail } = worker
  const catalog = {
    endpoints,
    offers,
    ...(aliases && { aliases }),
    ...(loras && { loras }),
    ...(controlnets && { controlnets }),
  }
  const vars = { ...raw.vars, ...worker.vars, GPU_URL: gpuUrl, GPU_SLOTS: String(gpu.max_containers) }
  const config = {
    ...raw,
    name,
    // The file is outside of the repository, and its paths are relative to it.
    main: path.join(ROOT, raw.main),
    alias: Object.fromEntries(Object.entries(raw.alias).map(([name, file]) => [name, path.join(ROOT, file)])),
    build: { ...raw.build, cwd: ROOT },
    assets: { ...raw.assets, directory: path.join(ROOT, raw.assets.directory) },
    vars: { ...vars, OCTET_CATALOG: catalog },
    ratelimits: raw.ratelimits.map((each, k) => ({ ...each, namespace_id: String(worker.ratelimits + k) })),
    d1_databases: raw.d1_databases.map((each) => ({
      ...each,
      database_name: worker.database,
      migrations_dir: path.join(ROOT, 'edge/migrations'),
    })),
    queues: {
      producers: raw.queues.producers.map((each) => ({ ...each, queue: worker.queue })),
      consumers: raw.queues.consumers.map((each) => ({ ...each, queue: worker.queue })),
    },
    r2_buckets: raw.r2_buckets.map((each) => ({ ...each, bucket_name: worker.results })),
    analytics_engine_datasets: raw.analytics_engine_datasets.map((each) => ({ ...each, dataset: worker.dataset })),
    ...(domain && { routes: [{ pattern: domain, custom_domain: true }], workers_dev: false }),
    ...(logpush && { logpush }),
    ...(tail.length > 0 && { tail_consumers: tail.map((service) => ({ service })) }),
  }
  await assertAccepted(config.vars)
  return config
}

/** Throws unless the worker accepts the variables, by its own schema. */
async function assertAccepted(vars: Record<string, unknown>): Promise<void> {
  const { findProblems } = (await import(WORKER_SCHEMA)) as { findProblems: (values: object) => string[] }
  const { secrets } = await createSecrets()
  const problems = findProblems({ ...vars, ...secrets })
  if (problems.length > 0) throw new Error(`the worker would reject its variables:\n${problems.join('\n')}`)
}

/** Writes the wrangler configuration of a deployment to `file`. Throws as `workerConfigOf`. */
export async function writeWorkerConfig(file: string, config: DeployConfig, gpuUrl: string): Promise<void> {
  const content = await workerConfigOf(config, gpuUrl === UNKNOWN.gpuUrl ? PLACEHOLDER : gpuUrl)
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 })
  await writePrivateFile(file, `${JSON.stringify(content, null, 2)}\n`)
}
