// The HTTP side of the contract: health, jobs as streams, refusals as RFC 9457.
import type { KeyObject } from 'node:crypto'
import { type Context, Hono } from 'hono'
import type { Logger } from 'pino'
import { checkScope, verifyToken } from './auth.ts'
import { GPU_TOKEN, type Health, type JobRequest, jobId, jobRequest, LIMITS, PROTOCOL_VERSION } from './contract.ts'
import type { Engine } from './engine.ts'
import type { Jobs, Lifecycle } from './jobs.ts'
import { describeIssues, problem, Refusal } from './refusal.ts'
import { readBody } from './request-body.ts'
import { jobStream } from './stream.ts'

/** A margin under the contract's five seconds, so that a reader who counts them strictly never misses one. */
const HEARTBEAT_MS = LIMITS.heartbeatMs - 1_000

export interface ServerOptions {
  jobs: Jobs
  engine: Pick<Engine, 'models'>
  lifecycle: Lifecycle
  /** Null lets everybody in. */
  edgePublicKeys: readonly KeyObject[] | null
  log: Logger
  heartbeatMs?: number
}

export function createApp(options: ServerOptions): Hono {
  const app = new Hono()
  app.get('/healthz', () => healthReply(options))
  app.get('/ping', () => new Response(null, { status: pingStatus(options.lifecycle) }))
  app.put('/jobs/:id', (c) => putJob(c, options))
  app.delete('/jobs/:id', (c) => deleteJob(c, options))
  app.notFound(() => problem(new Refusal('not_found', 'there is GET /healthz, GET /ping and PUT or DELETE /jobs/{id}')))
  app.onError((error) => {
    if (error instanceof Refusal) return problem(error)
    options.log.error({ err: error }, 'request failed')
    return problem(new Refusal('internal', 'the request failed because of a fault in the service'))
  })
  return app
}

async function putJob(c: Context, options: ServerOptions): Promise<Response> {
  const body = await readBody(c.req.raw)
  const id = readJobId(c)
  if (!/^application\/json\s*(;|$)/i.test(c.req.header('content-type') ?? ''))
    throw new Refusal('unsupported_media_type', 'send content-type: application/json')
  const attempt = await authorise(c, id, body, options)
  const request = parseRequest(body)
  if (attempt !== null && attempt !== request.attempt)
    throw new Refusal('token_mismatch', `the token is for attempt ${attempt}, the body for attempt ${request.attempt}`)
  const job = options.jobs.submit(id, request)
  const position = options.jobs.position(job)
  const accepted = { type: 'accepted', job: id, attempt: request.attempt, position } as const
  return new Response(jobStream(job, accepted, options.heartbeatMs ?? HEARTBEAT_MS), {
    headers: { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' },
  })
}

async function deleteJob(c: Context, options: ServerOptions): Promise<Response> {
  const body = await readBody(c.req.raw)
  const id = readJobId(c)
  const attempt = await authorise(c, id, body, options)
  options.jobs.cancel(id, attempt)
  return new Response(null, { status: 204 })
}

/** The attempt that the token is for, once it covers this job and body; null in insecure mode. */
async function authorise(c: Context, id: string, body: Uint8Array, { edgePublicKeys }: ServerOptions) {
  if (!edgePublicKeys) return null
  const claims = await verifyToken(edgePublicKeys, c.req.header(GPU_TOKEN.header) ?? c.req.header('authorization'))
  checkScope(claims, id, body)
  return claims.attempt
}

function readJobId(c: Context): string {
  const parsed = jobId.safeParse(c.req.param('id'))
  if (!parsed.success) throw new Refusal('invalid_request', 'the job id must be 1 to 64 letters, digits, _ or -')
  return parsed.data
}

function parseRequest(body: Uint8Array): JobRequest {
  const parsed = jobRequest.safeParse(parseJson(body), { reportInput: true })
  if (!parsed.success) throw new Refusal('invalid_request', describeIssues(parsed.error.issues))
  return parsed.data
}

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (cause) {
    throw new Refusal('invalid_request', 'the body must be JSON in UTF-8', { cause })
  }
}

function healthReply({ jobs, engine, lifecycle }: ServerOptions): Response {
  const body: Health = {
    status: lifecycle.status,
    protocol: PROTOCOL_VERSION,
    ...jobs.counts(),
    models: engine.models.map(({ model, tier, package: digest }) => ({ model, tier, package: digest })),
  }
  return Response.json(body, { status: lifecycle.status === 'ready' ? 200 : 503 })
}

function pingStatus({ status }: Lifecycle): number {
  if (status === 'ready') return 200
  return status === 'loading' ? 204 : 503
}
