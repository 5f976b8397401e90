// infra/config.json: names and scaling of a deployment. modal_app.py reads the same file.
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
    /** This and the two below are as in wrangler.toml. */
    name,
    database: name,
    results: name,
    /** Offers, best first: OCTET_CATALOG of the deployed worker. */
    offers: catalogTable.shape.offers,
    /** Model names of other providers that the worker serves, as in wrangler.toml. */
    aliases: catalogTable.shape.aliases,
  }),
  gpu: z.strictObject({
    app: name,
    /** The class in modal_app.py. */
    server: z.string().regex(/^[A-Z][A-Za-z0-9]*$/),
    /** Acceptable GPUs, in order of preference. */
    gpus: z.array(z.string()).min(1),
    /** Models of a container, all warm before it accepts jobs. */
    models: z.array(served).min(1),
    /** Source of the packages: the volume below, or the bucket in the secrets. */
    packages: z.enum(['volume', 'bucket']),
    /** Concurrent jobs per container: the autoscaler's target, and the maximum, including its queue. */
    target_concurrency: z.number().positive(),
    max_concurrency: z.int().min(1),
    min_containers: z.int().min(0),
    /** Limits the cost of a day to this many times 24 hours of the most expensive GPU. */
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
  }),
})
export type DeployConfig = z.infer<typeof config>

const FILE = path.join(import.meta.dirname, 'config.json')

/** Reads a configuration. Throws with the name, value and allowed values of each invalid option. */
export async function readDeployConfig(file = FILE): Promise<DeployConfig> {
  const text = await readFile(file, 'utf8')
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
  const homeless = worker.offers.filter(({ endpoint }) => endpoint === 'default')
  const absent = homeless.map(({ model, tier }) => `${model}:${tier}`).find((each) => !gpu.models.includes(each))
  if (absent === undefined) return given
  throw new Error(
    `${file}: worker.offers has ${absent}, which gpu.models does not serve; given ${gpu.models.join(', ')}`,
  )
}
