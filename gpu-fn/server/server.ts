// The HTTP side of the contract: health, jobs as streams, refusals as RFC 9457.
import { createHash, type KeyObject, timingSafeEqual } from 'node:crypto'
import { type Context, Hono } from 'hono'
import type { Logger } from 'pino'
import {
  describeInputs,
  describeOversize,
  GPU_TOKEN,
  type Health,
  type JobRequest,
  jobId,
  jobRequest,
  LIMITS,
  modelRequest,
  PROTOCOL_VERSION,
} from '../contract.ts'
import type { Engine } from '../engine/engine.ts'
import type { Jobs, Lifecycle } from './jobs.ts'
import type { Observer } from './observer.ts'
import { type Claims, checkBody, checkJob, createTokenUse, verifyToken } from './requests/auth.ts'
import { RequestBody } from './requests/body.ts'
import { createProblemReply, describeIssues, Refusal } from './requests/refusal.ts'
import { parseTraceparent, type TraceParent } from './requests/traceparent.ts'
import { streamJob } from './stream.ts'

/** Below the contract's interval, so that strict readers receive every heartbeat in time. */
const HEARTBEAT_MS = LIMITS.heartbeatMs - 1_000

export interface ServerOptions {
  jobs: Jobs
  engine: Pick<Engine, 'models'>
  lifecycle: Lifecycle
  /** Null disables authentication. */
  edgePublicKeys: readonly KeyObject[] | null
  log: Logger
  /** Null disables the metrics. `token`: the bearer token for reading them; null requires none. */
  metrics?: { text(): Promise<{ body: string; contentType: string }>; token: string | null }
  observer?: Pick<Required<Observer>, 'refused'>
  heartbeatMs?: number
}

export function createApp(options: ServerOptions): Hono {
  const useToken = createTokenUse()
  const app = new Hono()
  app.get('/healthz', () => createHealthReply(options))
  app.get('/readyz', () => new Response(null, { status: isReady(options) ? 200 : 503 }))
  app.get('/metrics', (c) => createMetricsReply(c, options))
  app.get('/ping', () => new Response(null, { status: pingStatus(options.lifecycle) }))
  app.put('/jobs/:id', async (c) => putJob(await readSigned(c, options, useToken), options))
  app.delete('/jobs/:id', async (c) => deleteJob(await readSigned(c, options, useToken), options))
  app.put('/models/:id', async (c) => putModel(await readSigned(c, options, useToken), options))
  app.notFound(() =>
    createProblemReply(
      new Refusal(
        'not_found',
        'the routes are GET /healthz, /readyz, /metrics and /ping, PUT or DELETE /jobs/{id}, and PUT /models/{model}',
      ),
    ),
  )
  app.onError((error) => {
    if (error instanceof Refusal) {
      options.observer?.refused(error.code)
      return createProblemReply(error)
    }
    options.log.error({ err: error }, 'request failed')
    return createProblemReply(new Refusal('internal', 'the request failed because of a fault in the service'))
  })
  return app
}

/**
 * An authenticated request. `attempt` is null if authentication is off; the body of a PUT also contains it. `files`: the rest of the body.
 */
type SignedRequest = {
  id: string
  attempt: number | null
  body: Uint8Array
  files: RequestBody
  trace: TraceParent | null
}

/** Verifies the request's token for this job before reading any of its body. */
async function readSigned(
  c: Context,
  options: ServerOptions,
  useToken: (claims: Claims) => void,
): Promise<SignedRequest> {
  const id = readJobId(c)
  const claims = await readClaims(c, options)
  if (claims) checkJob(claims, id)
  const hasFiles = c.req.method === 'PUT' && isFramed(c.req.header('content-type') ?? '')
  const files = new RequestBody(c.req.raw)
  const body = await readOrDiscard(files, () => (hasFiles ? files.readLine() : files.readAll()))
  const trace = parseTraceparent(c.req.header('traceparent'))
  if (!claims) return { id, attempt: null, body, files, trace }
  checkBody(claims, body)
  useToken(claims)
  return { id, attempt: claims.attempt, body, files, trace }
}

/** Whether files follow a PUT's request. Throws a Refusal with status 415 for any other media type. */
function isFramed(contentType: string): boolean {
  if (/^application\/x-ndjson\s*(;|$)/i.test(contentType)) return true
  if (/^application\/json\s*(;|$)/i.test(contentType)) return false
  throw new Refusal(
    'unsupported_media_type',
    'send content-type: application/json, or application/x-ndjson with inputs',
  )
}

/** Reads the rest of the body before a refusal is sent. */
async function readOrDiscard<T>(body: RequestBody, read: () => Promise<T>): Promise<T> {
  try {
    return await read()
  } catch (error) {
    await body.discard()
    throw error
  }
}

/** The claims of the request's token; null if authentication is off. */
async function readClaims(c: Context, { edgePublicKeys }: ServerOptions): Promise<Claims | null> {
  if (!edgePublicKeys) return null
  return verifyToken(edgePublicKeys, c.req.header(GPU_TOKEN.header) ?? c.req.header('authorization'))
}

async function putJob({ id, attempt, body, files, trace }: SignedRequest, options: ServerOptions): Promise<Response> {
  const request = await readOrDiscard(files, async () => parseRequest(body))
  if (attempt !== null && attempt !== request.attempt)
    throw new Refusal('token_mismatch', `the token is for attempt ${attempt}, the body for attempt ${request.attempt}`)
  const inputs = await readOrDiscard(files, () => files.readFiles(request.inputs ?? []))
  const { jobs, heartbeatMs = HEARTBEAT_MS } = options
  const job = jobs.submit(id, request, inputs, trace)
  const accepted = { type: 'accepted', job: id, attempt: request.attempt, position: jobs.position(job) } as const
  return new Response(streamJob(job, accepted, heartbeatMs, jobs.attach(job)), {
    headers: { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' },
  })
}

/** Opens a model ahead of its jobs. Its token is for the model's name in place of a job's id. */
function putModel({ id, body }: SignedRequest, { jobs }: ServerOptions): Response {
  const parsed = modelRequest.safeParse(parseJson(body), { reportInput: true })
  if (!parsed.success) throw new Refusal('invalid_request', describeIssues(parsed.error.issues))
  const model = jobs.prewarm({ model: id, tier: parsed.data.tier })
  if (!model) throw new Refusal('not_found', `model ${id}:${parsed.data.tier} is not on this server`)
  jobs.open(model)
  return new Response(null, { status: 202 })
}

function deleteJob({ id, attempt }: SignedRequest, { jobs }: ServerOptions): Response {
  jobs.cancel(id, attempt)
  return new Response(null, { status: 204 })
}

function readJobId(c: Context): string {
  const parsed = jobId.safeParse(c.req.param('id'))
  if (!parsed.success) throw new Refusal('invalid_request', 'the job id must be 1 to 64 letters, digits, _ or -')
  return parsed.data
}

function parseRequest(body: Uint8Array): JobRequest {
  const parsed = jobRequest.safeParse(parseJson(body), { reportInput: true })
  if (!parsed.success) throw new Refusal('invalid_request', describeIssues(parsed.error.issues))
  const problem = describeOversize(parsed.data) ?? describeInputs(parsed.data)
  if (problem !== null) throw new Refusal('invalid_request', problem)
  return parsed.data
}

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (cause) {
    throw new Refusal('invalid_request', 'the body must be JSON in UTF-8', { cause })
  }
}

function createHealthReply({ jobs, engine, lifecycle }: ServerOptions): Response {
  const body: Health = {
    status: lifecycle.status,
    protocol: PROTOCOL_VERSION,
    ...jobs.counts(),
    models: engine.models.map(({ model, tier, package: digest }) => ({ model, tier, package: digest })),
  }
  return Response.json(body, { status: lifecycle.status === 'ready' ? 200 : 503 })
}

/** Whether the process accepts jobs: its models are loaded, it is not ending, and the queue has room. */
const isReady = ({ jobs, lifecycle }: ServerOptions): boolean => lifecycle.status === 'ready' && jobs.hasRoom()

async function createMetricsReply(c: Context, { metrics }: ServerOptions): Promise<Response> {
  if (!metrics) return c.notFound()
  const given = /^Bearer +(\S+)$/i.exec(c.req.header('authorization') ?? '')?.[1] ?? ''
  if (metrics.token !== null && !isEqual(given, metrics.token))
    throw new Refusal('token_invalid', 'send the token of OCTET_METRICS_TOKEN as `Authorization: Bearer …`')
  const { body, contentType } = await metrics.text()
  return new Response(body, { headers: { 'content-type': contentType, 'cache-control': 'no-store' } })
}

const digestOf = (text: string) => createHash('sha256').update(text).digest()
const isEqual = (given: string, token: string) => timingSafeEqual(digestOf(given), digestOf(token))

function pingStatus({ status }: Lifecycle): number {
  if (status === 'ready') return 200
  return status === 'loading' ? 204 : 503
}
