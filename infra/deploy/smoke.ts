// Smoke tests of a deployment: an image from the GPU function, then one through the worker.
import { setTimeout as sleep } from 'node:timers/promises'
import { signGpuToken } from '../../edge/gpu/token.ts'
import { health, type JobRequest, PROTOCOL_VERSION } from '../../gpu-fn/contract.ts'
import type { DeployConfig } from '../config.ts'
import { createKey, revokeKey } from '../operator/keys.ts'
import type { Step } from './plan.ts'
import type { SecretsFile } from './secrets-file.ts'

const PROMPT = 'a red heart on a blue background'
const ASK_EVERY_MS = 3_000
const SMOKE_ACCOUNT = 'octet-smoke'

type Secrets = () => Promise<SecretsFile>

const NO_HOST = new Set([
  'ENOTFOUND',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'CERT_HAS_EXPIRED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
])

/** Throws if the failure of a request is permanent: the host does not exist, or its certificate is not valid. */
function assertTransient(error: Error, url: string): void {
  const { code = '', message } = (error.cause ?? error) as NodeJS.ErrnoException
  if (NO_HOST.has(code)) throw new Error(`${url} cannot be reached: ${message}`)
}

export const smokeGpu = (secrets: Secrets, onModal: boolean): Step => ({
  id: 'smoke-gpu',
  what: 'An image from the GPU function (cold start, with download and loading of weights)',
  commands: (_, { gpuUrl }) => [
    { command: ['curl', `${gpuUrl}/healthz`], condition: 'with the proxy token, until it is ready' },
    { command: ['curl', '-X', 'PUT', `${gpuUrl}/jobs/<ID>`], condition: 'signed, one image' },
  ],
  async run({ config, state, say }) {
    const { worker, proxyHeaders } = await secrets()
    const headers = proxyHeaders.default ?? {}
    const start = Date.now()
    await waitUntilReady(state.gpuUrl, headers, config)
    const readySeconds = (Date.now() - start) / 1000
    const offer = config.worker.offers[0]!
    const request: JobRequest = {
      ...{ protocol: PROTOCOL_VERSION, attempt: 1, prompt: PROMPT, negative_prompt: '', seed: 1, count: 1 },
      ...{ model: offer.model, tier: offer.tier, steps: offer.steps, guidance_scale: offer.guidance_scale },
      ...{ width: offer.width, height: offer.height },
      ...{ output_format: 'png', output_quality: 90, text_convention: 'diffusers' },
    }
    const bytes = await pictureOf(state.gpuUrl, headers, worker.GPU_SIGNING_KEY, request)
    say(`   ready after ${readySeconds.toFixed(0)} s; an image of ${bytes} bytes`)
  },
  otherwise: `${onModal ? 'See the log of the container with `modal app logs`.' : 'Check the address of --gpu-url, and the log of the GPU function on its host.'} For missing packages, run \`npm run weights\`; for a slow start, raise gpu.startup_timeout_seconds.`,
})

async function waitUntilReady(url: string, headers: Record<string, string>, { gpu }: DeployConfig): Promise<void> {
  const deadline = Date.now() + gpu.startup_timeout_seconds * 1000
  for (let last = 'no response'; ; await sleep(ASK_EVERY_MS)) {
    const reply = await fetch(`${url}/healthz`, { headers, signal: AbortSignal.timeout(30_000) }).catch(
      (error: Error) => error,
    )
    if (reply instanceof Response) {
      const body = health.safeParse(await reply.json().catch(() => null))
      if (reply.status === 200 && body.success) return assertServed(body.data.models, gpu.models)
      if (reply.status === 401 || reply.status === 403)
        throw new Error(`the host rejected the proxy token: ${reply.status}`)
      last = `${reply.status}${body.success ? ` ${body.data.status}` : ''}`
    } else {
      assertTransient(reply, url)
      last = (reply.cause as Error | undefined)?.message ?? reply.message
    }
    if (Date.now() > deadline) throw new Error(`not ready after ${gpu.startup_timeout_seconds} s: ${last}`)
  }
}

function assertServed(models: { model: string; tier: string }[], wanted: readonly string[]): void {
  const there = models.map(({ model, tier }) => `${model}:${tier}`)
  const absent = wanted.filter((each) => !there.includes(each))
  if (absent.length > 0) throw new Error(`it serves ${there.join(', ')}, but not ${absent.join(', ')}`)
}

/** Runs one job and returns the bytes of its image. */
async function pictureOf(
  url: string,
  headers: Record<string, string>,
  key: string,
  request: JobRequest,
): Promise<number> {
  const job = `smoke-${Date.now().toString(36)}`
  const body = JSON.stringify(request)
  const token = await signGpuToken(key, job, 1, body)
  const reply = await fetch(`${url}/jobs/${job}`, {
    ...{ method: 'PUT', body, signal: AbortSignal.timeout(300_000) },
    headers: { ...headers, 'octet-authorization': `Bearer ${token}`, 'content-type': 'application/json' },
  })
  const text = Buffer.from(await reply.arrayBuffer()).toString('latin1')
  if (reply.status !== 200) throw new Error(`the GPU function returned ${reply.status}: ${text.slice(0, 300)}`)
  if (!text.includes('"type":"succeeded"')) throw new Error(`the job did not succeed: ${text.slice(-300)}`)
  const [, image = ''] = text.split('"type":"image"', 2)
  return Number(/"bytes":(\d{1,9})/.exec(image.slice(0, 1000))?.[1] ?? 0)
}

export const smokeWorker = (secrets: Secrets): Step => ({
  id: 'smoke-worker',
  what: 'An image through the public address, with a temporary key',
  commands: (_, { workerUrl }) => [
    { command: ['curl', '-X', 'POST', `${workerUrl}/v1/images/generations`], condition: `as account ${SMOKE_ACCOUNT}` },
  ],
  async run({ state, say }) {
    const target = { url: state.workerUrl, token: (await secrets()).worker.OCTET_ADMIN_TOKEN }
    const { key, id } = await createKey(target, SMOKE_ACCOUNT, { label: 'smoke', expires_in: 3600 })
    try {
      const reply = await fetch(`${state.workerUrl}/v1/images/generations`, {
        ...{ method: 'POST', signal: AbortSignal.timeout(600_000) },
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ prompt: PROMPT, seed: 1, response_format: 'b64_json' }),
      })
      const body = (await reply.json()) as { data?: { b64_json: string }[]; detail?: string }
      const picture = Buffer.from(body.data?.[0]?.b64_json ?? '', 'base64')
      if (reply.status !== 200) throw new Error(`it returned ${reply.status}: ${body.detail ?? ''}`)
      if (picture.subarray(1, 4).toString() !== 'PNG') throw new Error('the response contains no PNG')
      say(`   an image of ${picture.length} bytes from ${state.workerUrl}`)
    } finally {
      await revokeKey(target, SMOKE_ACCOUNT, id)
    }
  },
  otherwise:
    'See the log of the worker with `npx wrangler tail`. `npx wrangler rollback` restores the previous version.',
})
