// The file with the secrets of a deployment: created once, used by every later deploy. If it is lost, API keys stay valid, but all secrets
// must be rotated.
import { mkdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'
import { readCredentials } from '../../gpu-fn/config.ts'
import { readCertificate } from '../../gpu-fn/credentials/certificate.ts'
import { tightenFile, writePrivateFile } from '../command/private-files.ts'
import { ROOT } from '../local/models/package-cache.ts'
import { createSecrets } from '../operator/secrets.ts'
import { GONE, type Step, type World } from './plan.ts'
import { writeWorkerConfig } from './worker-config.ts'

const text = z.string().min(1)
const bucketSecrets = z.strictObject({ OCTET_BUCKET: z.url(), OCTET_BUCKET_KEY_ID: text, OCTET_BUCKET_SECRET: text })
export type BucketSecrets = z.infer<typeof bucketSecrets>

const file = z.strictObject({
  worker: z.strictObject({
    KEY_PEPPER: text,
    GPU_SIGNING_KEY: text,
    OCTET_ADMIN_TOKEN: text,
    RECEIPT_SIGNING_KEYS: text,
    STRIPE_SECRET_KEY: text.optional(),
    MODERATION_API_KEY: text.optional(),
  }),
  /** Key of the GPU function: one JWK, or a JSON array during a rotation. */
  gpuPublicKey: text,
  /** Proxy headers by endpoint and name. */
  proxyHeaders: z.record(z.string(), z.record(z.string(), text)).default({}),
  bucket: bucketSecrets.optional(),
  /** Certificates and key of content credentials, in PEM. */
  credentials: z.strictObject({ certificates: text, key: text }).optional(),
})
export type SecretsFile = z.infer<typeof file>

/** The file of a deployment, by the name of its worker. */
export const secretsFileOf = (worker: string) => path.join(ROOT, '.octet', 'deploy', worker, 'secrets.json')

/** Reads the file and restricts its mode; null if it does not exist. Throws if it is malformed, without quoting its content. */
export async function readSecretsFile(
  at: string,
  warn: (line: string) => void = console.warn,
): Promise<SecretsFile | null> {
  await tightenFile(at, warn)
  const found = await readFile(at, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (found === null) return null
  try {
    return file.parse(JSON.parse(found))
  } catch (error) {
    const fields =
      error instanceof z.ZodError ? error.issues.map((issue) => issue.path.join('.')).join(', ') : 'it is not JSON'
    throw new Error(`${at} is malformed: ${fields}`)
  }
}

/** Writes the file atomically, readable by its owner only. */
export async function writePrivate(at: string, content: unknown): Promise<void> {
  await mkdir(path.dirname(at), { recursive: true, mode: 0o700 })
  await writePrivateFile(at, `${JSON.stringify(content, null, 2)}\n`)
}

export type SecretsOptions = {
  file: string
  /** Creates new secrets although the deployed worker has some. */
  fresh?: boolean
  /** Whether the GPU function is on Modal, whose proxy token must be created. */
  onModal: boolean
  env: Record<string, string | undefined>
}

const BUCKET_QUESTIONS = {
  OCTET_BUCKET: "the packages' bucket, https://<account>.r2.cloudflarestorage.com/<bucket>",
  OCTET_BUCKET_KEY_ID: 'the access key id of an R2 token with read access (dashboard: R2, Manage API tokens)',
  OCTET_BUCKET_SECRET: 'its secret access key',
} as const

/** Completes the file: creates missing secrets, and prompts for those of other services. */
export function createSecretsStep(options: SecretsOptions): Step {
  return {
    id: 'secrets',
    what: `Secrets, stored in ${path.relative(ROOT, options.file)}: back it up`,
    commands: ({ worker: { name }, gpu: { proxy_token: token } }) => [
      { command: ['wrangler', 'secret', 'list', '--name', name], condition: 'if the file does not exist' },
      ...(options.onModal
        ? [
            {
              command: ['modal', 'workspace', 'proxy-tokens', 'create', '--name', token, '--json'],
              condition: 'if the file has no proxy token',
            },
          ]
        : []),
    ],
    async run(world) {
      const before = await readSecretsFile(options.file)
      if (!before) await refuseToReplace(world, options)
      const secrets = before ?? (await generateSecrets())
      // Every secret is saved immediately, because a later one may fail and a token is shown only once.
      const keep = () => writePrivate(options.file, secrets)
      await keep()
      await complete(secrets, world, options, keep)
      const directory = path.dirname(options.file)
      world.state.workerSecrets = path.join(directory, 'worker.json')
      world.state.gpuSecrets = path.join(directory, 'gpu.json')
      world.state.workerConfig = path.join(directory, 'wrangler.json')
      await writeWorkerConfig(world.state.workerConfig, world.config, world.state.gpuUrl)
      const headers = { GPU_PROXY_HEADERS: JSON.stringify(secrets.proxyHeaders) }
      await writePrivate(world.state.workerSecrets, { ...secrets.worker, ...headers })
      await writePrivate(world.state.gpuSecrets, createGpuEnvironment(world, secrets))
    },
    otherwise:
      'Copy the file from the machine of the last deploy. --new-secrets creates others and invalidates every API key, browser token and signed link.',
  }
}

async function refuseToReplace({ config, exec }: World, { fresh, file }: SecretsOptions): Promise<void> {
  if (fresh) return
  const deployed = await exec(['wrangler', 'secret', 'list', '--name', config.worker.name]).catch((error: Error) => {
    if (!GONE.test(error.message)) throw error
    return ''
  })
  if (deployed.includes('KEY_PEPPER'))
    throw new Error(`the worker ${config.worker.name} has secrets that are not in ${path.relative(ROOT, file)}`)
}

async function generateSecrets(): Promise<SecretsFile> {
  const { secrets, gpuPublicKey } = await createSecrets()
  return { worker: secrets, gpuPublicKey, proxyHeaders: {} }
}

/** Adds missing entries to `secrets`. */
async function complete(secrets: SecretsFile, world: World, options: SecretsOptions, keep: () => Promise<void>) {
  const { config, exec, ask } = world
  const { onModal, env } = options
  if (env.STRIPE_SECRET_KEY) secrets.worker.STRIPE_SECRET_KEY = env.STRIPE_SECRET_KEY
  if (env.MODERATION_API_KEY) secrets.worker.MODERATION_API_KEY = env.MODERATION_API_KEY
  const credentials = readCredentials(env)
  if (credentials) secrets.credentials = credentials
  if (env.GPU_PROXY_HEADERS) Object.assign(secrets.proxyHeaders, JSON.parse(env.GPU_PROXY_HEADERS))
  if (onModal && !secrets.proxyHeaders.default) {
    const name = config.gpu.proxy_token
    const token = JSON.parse(await exec(['modal', 'workspace', 'proxy-tokens', 'create', '--name', name, '--json']))
    secrets.proxyHeaders.default = { 'modal-key': token['Modal-Key'], 'modal-secret': token['Modal-Secret'] }
    await keep()
  }
  if (config.gpu.packages === 'bucket') {
    const known = { ...secrets.bucket, ...removeUnset(env) }
    for (const [name, question] of Object.entries(BUCKET_QUESTIONS))
      known[name as keyof BucketSecrets] ??= await ask(question, { secret: name.endsWith('SECRET') })
    secrets.bucket = bucketSecrets.parse(known)
  }
  await keep()
}

/** Throws if a variable of the environment that the secrets step reads is malformed. */
export function checkEnvironment(env: Record<string, string | undefined>): void {
  const { GPU_PROXY_HEADERS: text, OCTET_BUCKET } = env
  const credentials = readCredentials(env)
  if (credentials) readCertificate(credentials)
  const form = 'GPU_PROXY_HEADERS must be JSON of the form {"default": {"authorization": "Bearer …"}}'
  const parsed = file.shape.proxyHeaders.safeParse(text ? parseJson(text) : undefined)
  if (!parsed.success) throw new Error(form)
  if (OCTET_BUCKET && !bucketSecrets.shape.OCTET_BUCKET.safeParse(OCTET_BUCKET).success)
    throw new Error(`OCTET_BUCKET must be the address of a bucket; given "${OCTET_BUCKET}"`)
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

function removeUnset(env: Record<string, string | undefined>): Partial<BucketSecrets> {
  const names = Object.keys(BUCKET_QUESTIONS) as (keyof BucketSecrets)[]
  return Object.fromEntries(names.filter((name) => env[name]).map((name) => [name, env[name]!]))
}

function createGpuEnvironment({ config: { gpu } }: World, secrets: SecretsFile): Record<string, string> {
  const { gpuPublicKey, bucket, credentials } = secrets
  const models = bucket && gpu.packages === 'bucket' ? { ...bucket, OCTET_MODELS: gpu.models.join(',') } : {}
  const signing = credentials && {
    OCTET_C2PA_CERTIFICATES: credentials.certificates,
    OCTET_C2PA_KEY: credentials.key,
  }
  return { OCTET_EDGE_PUBLIC_KEY: gpuPublicKey, ...models, ...signing }
}
