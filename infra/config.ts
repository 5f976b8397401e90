// The configuration of a deployment, infra/config.json by default: names, offers and scaling. modal_app.py reads the same file.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'
import { catalogTable } from '../edge/config/catalog.ts'
import { TIERS } from '../gpu-fn/contract.ts'

const name = z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'must be 1 to 63 of a-z, 0-9 and "-", not "-" at the start')
const seconds = (max: number) => z.int().min(0).max(max)
const served = z
  .string()
  .regex(
    new RegExp(`^[a-z0-9][a-z0-9-]{0,63}:(${TIERS.join('|')})$`),
    `must be model:tier, where tier is one of ${TIERS.join(', ')}`,
  )

const config = z.strictObject({
  worker: z.strictObject({
    name,
    /** Names of the D1 database, the R2 bucket, the queue of usage, and the Analytics Engine dataset. */
    database: name,
    results: name,
    queue: name,
    dataset: z.string().regex(/^[a-z][a-z0-9_]{0,62}$/, 'must be 1 to 63 of a-z, 0-9 and "_", a letter first'),
    /** The first of three consecutive IDs of rate limits. Two workers of an account with equal IDs share their limits. */
    ratelimits: z.int().min(1).max(1e9),
    /** Addresses of further GPU functions, for `endpoint` and `fallbacks` of the offers. */
    endpoints: catalogTable.shape.endpoints,
    /** Offers, best first. Offers and endpoints are OCTET_CATALOG of the deployed worker. */
    offers: catalogTable.shape.offers,
    /** Model names of other providers that the worker serves, as in wrangler.toml. */
    aliases: catalogTable.shape.aliases,
    /** Adapters of the offered models, whose packages are in `loras` of the packages. */
    loras: catalogTable.shape.loras,
    /** ControlNets of the offered models, whose packages are in `controlnets` of the packages. */
    controlnets: catalogTable.shape.controlnets,
    /** Other variables of wrangler.toml with another value in this deployment. */
    vars: z.record(z.string().regex(/^[A-Z][A-Z0-9_]*$/), z.unknown()).default({}),
    /** A host name of a zone in the Cloudflare account; the worker is then served there instead of on workers.dev. */
    domain: z.hostname().optional(),
    /** Sends the worker's log to the Logpush jobs of the account. */
    logpush: z.boolean().default(false),
    /** Names of Tail Workers that receive the worker's log. */
    tail: z.array(name).default([]),
  }),
  gpu: z.strictObject({
    app: name,
    /** The class in modal_app.py. */
    server: z.string().regex(/^[A-Z][A-Za-z0-9]*$/),
    /** Acceptable GPU types in order of preference. By default, measured types (`MEASURED` in deploy/gpu-types.ts) come first. */
    gpus: z.array(z.string()).min(1),
    /** Models of a container, all warm before it accepts jobs. */
    models: z.array(served).min(1),
    /** Source of the packages: the volume below, or the bucket in the secrets. */
    packages: z.enum(['volume', 'bucket']),
    /** Concurrent jobs per container: the autoscaler's target, and the maximum, including its queue. */
    target_concurrency: z.number().positive(),
    max_concurrency: z.int().min(1),
    min_containers: z.int().min(0),
    /** Maximum number of containers, which limits the cost of a day to as many times 24 hours of the most expensive GPU. */
    max_containers: z.int().min(1),
    buffer_containers: z.int().min(0),
    /** Idle time before a container ends. */
    scaledown_window_seconds: seconds(3600).min(2),
    /** Time limit for a start, including download and loading of weights. */
    startup_timeout_seconds: seconds(3600).min(30),
    /** Time limit for running jobs when a container is stopped. */
    exit_grace_seconds: seconds(3600),
    routing_region: z.string(),
    compute_region: z.string(),
    cpu: z.number().positive(),
    memory_mib: z.int().min(1024),
    /** The Modal volume of packages (npm run weights -- --volume), and the secret with the rest of the GPU function's environment. */
    volume: name,
    secret: name,
    /** Name of the proxy token that authenticates the worker at Modal. */
    proxy_token: name,
  }),
})
export type DeployConfig = z.infer<typeof config>

export const CONFIG_FILE = path.join(import.meta.dirname, 'config.json')

/** Reads a configuration. Throws with the name, value and allowed values of each invalid option. */
export async function readDeployConfig(file = CONFIG_FILE): Promise<DeployConfig> {
  const text = await readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw new Error(`the configuration ${file} cannot be read (${cause.code})`, { cause })
  })
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (cause) {
    throw new Error(`${file} is not JSON: ${(cause as Error).message}`)
  }
  const parsed = config.safeParse(json, { reportInput: true })
  if (parsed.success) return assertServed(parsed.data, file)
  const wrong = parsed.error.issues.map(({ path: at, input, message }) => {
    const given = input === undefined ? 'missing' : `given ${JSON.stringify(input)}`
    return `${at.join('.') || 'the file'}: ${message}; ${given}`
  })
  throw new Error(`${file}:\n${wrong.join('\n')}`)
}

/** Throws unless every offer of the default endpoint is served by the GPU function. */
function assertServed(given: DeployConfig, file: string): DeployConfig {
  const { worker, gpu } = given
  const unassigned = worker.offers.filter(({ endpoint }) => endpoint === 'default')
  const absent = unassigned.map(({ model, tier }) => `${model}:${tier}`).find((each) => !gpu.models.includes(each))
  if (absent === undefined) return given
  throw new Error(
    `${file}: worker.offers has ${absent}, which gpu.models does not serve; given ${gpu.models.join(', ')}`,
  )
}
