// The environment of the GPU function, parsed once at the start.
import { createPublicKey, type JsonWebKey, type KeyObject } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { tmpdir, totalmem } from 'node:os'
import path from 'node:path'
import * as z from 'zod'
import { TIERS } from './contract.ts'
import { TARGETS } from './manifest.ts'

const LOOPBACK = ['127.0.0.1', '::1', 'localhost']
const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
const KEY_FORMS = 'must be the Ed25519 public key of the edge, as a JWK, as a JSON array of them, or as SPKI PEM'

/** Missing or invalid variables; the message has one line for each. */
export class ConfigError extends Error {
  override name = 'ConfigError' as const
}

function createIntegerSchema(min: number, max: number, otherwise: number) {
  const error = `must be an integer from ${min} to ${max}`
  return z
    .string()
    .regex(/^\d{1,16}$/, error)
    .transform(Number)
    .refine((value) => value >= min && value <= max, error)
    .default(otherwise)
}

const tiers = TIERS.join('|')
const models = z
  .string()
  .regex(
    new RegExp(`^[a-z0-9][a-z0-9-]*:(${tiers})(,[a-z0-9][a-z0-9-]*:(${tiers}))*$`),
    `must be model:tier, or several with commas between them, where tier is one of ${TIERS.join(', ')}`,
  )
  .transform((text) => text.split(',').map((pair) => pair.split(':')))
  .pipe(z.array(z.tuple([z.string(), z.enum(TIERS)])))

const GIB = 2 ** 30
/** A limit of memory, in bytes. */
export const gigabytes = z
  .string()
  .regex(/^\d{1,4}(\.\d{1,3})?$/, 'must be a number of gigabytes, such as 8 or 23.5')
  .transform((text) => Math.floor(Number(text) * GIB))

const sizes = z
  .string()
  .regex(
    /^\d{1,5}x\d{1,5}(,\d{1,5}x\d{1,5})*$/,
    'must be width x height, or several with commas, such as 1024x1024,1024x768',
  )
  .transform((text) =>
    text.split(',').map((size) => {
      const [width, height] = size.split('x').map(Number) as [number, number]
      return { width, height }
    }),
  )

const environment = z.object({
  PORT: createIntegerSchema(0, 65_535, 8080),
  HOST: z.string().optional(),
  OCTET_PACKAGES: z.string().optional(),
  OCTET_BUCKET: z.url({ protocol: /^https?$/, error: 'must be the address of an S3-compatible bucket' }).optional(),
  OCTET_BUCKET_KEY_ID: z.string().default(''),
  OCTET_BUCKET_SECRET: z.string().default(''),
  OCTET_BUCKET_REGION: z.string().default('auto'),
  OCTET_MODELS: models.optional(),
  OCTET_TARGET: z
    .enum(TARGETS, { error: `must be ${TARGETS.slice(0, -1).join(', ')} or ${TARGETS.at(-1)}` })
    .default('cuda-fp8'),
  OCTET_CACHE: z.string().default(path.join(tmpdir(), 'octet-packages')),
  OCTET_CACHE_BYTES: createIntegerSchema(1, Number.MAX_SAFE_INTEGER, 0),
  OCTET_EDGE_PUBLIC_KEY: z.string().optional(),
  OCTET_INSECURE: z.literal('1', { error: 'must be 1 or not set' }).optional(),
  OCTET_QUEUE: createIntegerSchema(0, 10_000, 64),
  OCTET_AGING_SECONDS: createIntegerSchema(1, 86_400, 60),
  OCTET_SHARED_STEPS: createIntegerSchema(1, 8, 1),
  OCTET_PROMPT_CACHE_BYTES: createIntegerSchema(0, Number.MAX_SAFE_INTEGER, 128 * 1024 * 1024),
  OCTET_RETAIN_SECONDS: createIntegerSchema(0, 86_400, 300),
  OCTET_RETAIN_BYTES: createIntegerSchema(0, Number.MAX_SAFE_INTEGER, 256 * 1024 * 1024),
  OCTET_UNREAD_SECONDS: createIntegerSchema(1, 3_600, 10),
  OCTET_STALL_SECONDS: createIntegerSchema(1, 86_400, 60),
  OCTET_MEMORY_BYTES: createIntegerSchema(1, Number.MAX_SAFE_INTEGER, Math.floor(measureAvailableMemory() * 0.6)),
  OCTET_VRAM_GB: gigabytes.optional(),
  OCTET_DEVICES: createIntegerSchema(1, 16, 1),
  OCTET_PRELOAD: models.optional(),
  OCTET_WARM: sizes.optional(),
  OCTET_STEP_GRAPHS: z.enum(['0', '1'], { error: 'must be 0 or 1' }).default('0'),
  OCTET_SEQUENTIAL_START: z.literal('1', { error: 'must be 1 or not set' }).optional(),
  OCTET_METRICS_TOKEN: z.string().optional(),
  OTEL_EXPORTER_OTLP_ENDPOINT: z
    .url({ protocol: /^https?$/, error: 'must be the address of an OTLP receiver' })
    .optional(),
  OCTET_DRAIN_SECONDS: createIntegerSchema(0, 3_600, 120),
  OCTET_C2PA_CERTIFICATES: z.string().optional(),
  OCTET_C2PA_KEY: z.string().optional(),
  LOG_LEVEL: z.enum(LOG_LEVELS, { error: `must be one of ${LOG_LEVELS.join(', ')}` }).default('info'),
})

/** Settings of one GPU function; `edgePublicKeys` is null only in insecure mode, which listens on loopback. */
export type Config = ReturnType<typeof readConfig>

/** Reads and checks the environment. Throws ConfigError with every invalid variable. */
export function readConfig(variables: Record<string, string | undefined>) {
  const given = Object.fromEntries(Object.entries(variables).filter(([, value]) => value !== undefined && value !== ''))
  const parsed = environment.safeParse(given)
  if (!parsed.success) throw new ConfigError(parsed.error.issues.map((issue) => describe(issue, given)).join('\n'))
  const env = parsed.data
  const insecure = env.OCTET_INSECURE === '1'
  const edgePublicKeys = readKeys(env.OCTET_EDGE_PUBLIC_KEY, insecure)
  const host = env.HOST ?? (insecure ? '127.0.0.1' : '0.0.0.0')
  if (insecure && !LOOPBACK.includes(host))
    throw new ConfigError(`HOST must be one of ${LOOPBACK.join(', ')} with OCTET_INSECURE=1; given "${host}"`)
  return {
    port: env.PORT,
    host,
    packages: env.OCTET_PACKAGES ?? null,
    /** Cache directory: packages downloaded from the bucket, and the record of verified files. */
    cache: env.OCTET_CACHE,
    bucket: readBucket(env),
    edgePublicKeys,
    queue: env.OCTET_QUEUE,
    /** The longest time from the acceptance of a job to its end (scheduler/scheduler.ts). */
    agingSeconds: env.OCTET_AGING_SECONDS,
    /** Maximum number of jobs whose steps share a run of the denoiser (server/batch-limit.ts). */
    sharing: env.OCTET_SHARED_STEPS,
    promptCacheBytes: env.OCTET_PROMPT_CACHE_BYTES,
    retainSeconds: env.OCTET_RETAIN_SECONDS,
    retainBytes: env.OCTET_RETAIN_BYTES,
    /** A job without a reader for this long is canceled. */
    unreadSeconds: env.OCTET_UNREAD_SECONDS,
    /** Minimum time without a step before a run counts as hung (watchdog.ts). */
    stallSeconds: env.OCTET_STALL_SECONDS,
    memoryBytes: env.OCTET_MEMORY_BYTES,
    deviceBytes: env.OCTET_VRAM_GB,
    /** Number of GPUs with the denoiser, the first ones in CUDA's order; on the CPU, number of its sessions. */
    devices: env.OCTET_DEVICES,
    preload: env.OCTET_PRELOAD ?? [],
    /** Sizes at which preloaded models are run once; by default each model's default size. */
    warm: env.OCTET_WARM,
    /** The parts of a start do not overlap: download, load from mapped files, verification, and the sizes of `warm`. */
    sequentialStart: env.OCTET_SEQUENTIAL_START === '1',
    /** Repeat runs of step graphs of target cuda-fp8 as CUDA graphs. */
    capture: env.OCTET_STEP_GRAPHS === '1',
    drainSeconds: env.OCTET_DRAIN_SECONDS,
    /** Certificates and key of content credentials, in PEM; null if there are none. */
    credentials: readCredentials(env),
    /** The bearer token for /metrics; null for public metrics. */
    metricsToken: env.OCTET_METRICS_TOKEN ?? null,
    /** Null sends no spans. */
    traces: env.OTEL_EXPORTER_OTLP_ENDPOINT ?? null,
    logLevel: env.LOG_LEVEL,
  }
}

/** Packages to fetch if they are not in the directory; null if there is no bucket. */
function readBucket(env: z.infer<typeof environment>) {
  const { OCTET_BUCKET: url, OCTET_MODELS: models } = env
  if (url === undefined && env.OCTET_PACKAGES === undefined)
    throw new ConfigError(
      'OCTET_PACKAGES must name the directory that holds the compiled packages, or OCTET_BUCKET a bucket that has them; neither is set',
    )
  if (url === undefined && models) throw new ConfigError('OCTET_BUCKET must be set together with OCTET_MODELS')
  if (url === undefined) return null
  if (!models)
    throw new ConfigError('OCTET_MODELS must list the packages of OCTET_BUCKET to serve, as model:tier; it is not set')
  return {
    address: {
      url,
      accessKeyId: env.OCTET_BUCKET_KEY_ID,
      secretAccessKey: env.OCTET_BUCKET_SECRET,
      region: env.OCTET_BUCKET_REGION,
    },
    models: models.map(([model, tier]) => ({ model, tier, target: env.OCTET_TARGET })),
    /** 0, the default, uses most of the free space on that disk. */
    cacheBytes: env.OCTET_CACHE_BYTES,
  }
}

type CredentialVariable = 'OCTET_C2PA_CERTIFICATES' | 'OCTET_C2PA_KEY'

/** The PEM of content credentials, given inline or as paths; null if there are none. Throws ConfigError. */
export function readCredentials(variables: Partial<Record<CredentialVariable, string | undefined>>) {
  const { OCTET_C2PA_CERTIFICATES: certificates, OCTET_C2PA_KEY: key } = variables
  if (certificates === undefined && key === undefined) return null
  if (certificates === undefined || key === undefined)
    throw new ConfigError('OCTET_C2PA_CERTIFICATES and OCTET_C2PA_KEY must be set together')
  return {
    certificates: readPem('OCTET_C2PA_CERTIFICATES', certificates),
    key: readPem('OCTET_C2PA_KEY', key),
  }
}

const PEM = /^\s*-----BEGIN /

/** Messages omit the value, which may be a damaged key. */
function readPem(name: string, given: string): string {
  if (PEM.test(given)) return given
  try {
    return readFileSync(given, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new ConfigError(`${name} must be PEM or the path of a file with it; as a path, it cannot be read (${code})`)
  }
}

function describe(issue: z.core.$ZodIssue, given: Record<string, unknown>): string {
  const name = String(issue.path[0])
  return given[name] === undefined
    ? `${name} ${issue.message}; it is not set`
    : `${name} ${issue.message}; given ${JSON.stringify(given[name])}`
}

/** One key, or the old and the new one during a rotation. */
function readKeys(text: string | undefined, insecure: boolean): KeyObject[] | null {
  if (insecure && text === undefined) return null
  if (insecure) throw new ConfigError('OCTET_INSECURE must not be set together with OCTET_EDGE_PUBLIC_KEY')
  if (text === undefined)
    throw new ConfigError(
      `OCTET_EDGE_PUBLIC_KEY ${KEY_FORMS}; it is not set (OCTET_INSECURE=1 serves without it, on loopback only)`,
    )
  // Messages omit the value: a private key pasted by mistake must not reach a log.
  const keys = parseKeys(text)
  if (keys.length === 0 || keys.some((key) => key.asymmetricKeyType !== 'ed25519'))
    throw new ConfigError(`OCTET_EDGE_PUBLIC_KEY ${KEY_FORMS}`)
  return keys
}

/** Empty if an entry is not a public key. */
function parseKeys(text: string): KeyObject[] {
  try {
    if (!/^\s*[{[]/.test(text))
      return text.includes('PRIVATE KEY') ? [] : [createPublicKey({ key: text, format: 'pem' })]
    const jwks = [JSON.parse(text)].flat() as JsonWebKey[]
    return jwks.some(({ d }) => d !== undefined) ? [] : jwks.map((key) => createPublicKey({ key, format: 'jwk' }))
  } catch {
    return []
  }
}

function measureAvailableMemory(): number {
  const limit = process.constrainedMemory()
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem()
}
