// infra/config.json: what a deployment is called and how its GPU function scales. modal_app.py reads the same file.
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
    /** As in wrangler.toml, as are the two below. */
    name,
    database: name,
    results: name,
    /** What is served, best first: OCTET_CATALOG of the deployed worker. */
    offers: catalogTable.shape.offers,
  }),
  gpu: z.strictObject({
    app: name,
    /** The class of modal_app.py. */
    server: z.string().regex(/^[A-Z][A-Za-z0-9]*$/),
    /** Modal takes the first of them that is free. */
    gpus: z.array(z.string()).min(1),
    /** What a container serves, all of it warm before it takes jobs. */
    models: z.array(served).min(1),
    /** Where the packages are: on the volume below, or in the bucket that the secrets name. */
    packages: z.enum(['volume', 'bucket']),
    /** Jobs at a time for which one container is enough, and the most that one is sent. The rest of them wait in its queue. */
    target_concurrency: z.number().positive(),
    max_concurrency: z.int().min(1),
    min_containers: z.int().min(0),
    /** The most that a day can cost is this times 24 hours of the dearest GPU. */
    max_containers: z.int().min(1),
    buffer_containers: z.int().min(0),
    /** How long a container without jobs stays. */
    scaledown_window_seconds: seconds(3600).min(2),
    /** How long a container may take to be warm, weights fetched and loaded. */
    startup_timeout_seconds: seconds(3600).min(30),
    /** How long a container that is to go may finish its jobs. */
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

/** Reads a configuration. Throws an Error that names each option that is wrong, what it is and what is allowed. */
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

/** What the worker offers must be served somewhere. */
function assertServed(given: DeployConfig, file: string): DeployConfig {
  const { worker, gpu } = given
  const homeless = worker.offers.filter(({ endpoint }) => endpoint === 'default')
  const absent = homeless.map(({ model, tier }) => `${model}:${tier}`).find((each) => !gpu.models.includes(each))
  if (absent === undefined) return given
  throw new Error(
    `${file}: worker.offers has ${absent}, which gpu.models does not serve; given ${gpu.models.join(', ')}`,
  )
}
