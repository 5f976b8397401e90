// The HTTP side of the contract: health, jobs as streams, refusals as RFC 9457.
import type { KeyObject } from 'node:crypto'
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
  PROTOCOL_VERSION,
} from '../contract.ts'
import type { Engine } from '../engine/engine.ts'
import { type Claims, checkBody, checkJob, createTokenUse, verifyToken } from './auth.ts'
import type { Jobs, Lifecycle } from './jobs.ts'
import { describeIssues, problem, Refusal } from './refusal.ts'
import { RequestBody } from './request-body.ts'
import { jobStream } from './stream.ts'

/** Less than the contract's interval, so that strict readers always receive a heartbeat in time. */
const HEARTBEAT_MS = LIMITS.heartbeatMs - 1_000

export interface ServerOptions {
  jobs: Jobs
  engine: Pick<Engine, 'models'>
  lifecycle: Lifecycle
  /** Null disables authentication. */
  edgePublicKeys: readonly KeyObject[] | null
  log: Logger
  heartbeatMs?: number
}

export function createApp(options: ServerOptions): Hono {
  const useToken = createTokenUse()
  const app = new Hono()
  app.get('/healthz', () => healthReply(options))
  app.get('/ping', () => new Response(null, { status: pingStatus(options.lifecycle) }))
  app.put('/jobs/:id', async (c) => putJob(await readSigned(c, options, useToken), options))
  app.delete('/jobs/:id', async (c) => deleteJob(await readSigned(c, options, useToken), options))
  app.notFound(() => problem(new Refusal('not_found', 'there is GET /healthz, GET /ping and PUT or DELETE /jobs/{id}')))
  app.onError((error) => {
    if (error instanceof Refusal) return problem(error)
    options.log.error({ err: error }, 'request failed')
    return problem(new Refusal('internal', 'the request failed because of a fault in the service'))
  })
  return app
}

/** An authenticated request. `attempt` is null without authentication; the body of a PUT has it as well. `files`: the rest of the body. */
type Signed = { id: string; attempt: number | null; body: Uint8Array; files: RequestBody }

/** Verifies the request's token for this job before reading any of its body. */
async function readSigned(c: Context, options: ServerOptions, useToken: (claims: Claims) => void): Promise<Signed> {
  const id = readJobId(c)
  const claims = await readClaims(c, options)
  if (claims) checkJob(claims, id)
  const hasFiles = c.req.method === 'PUT' && isFramed(c.req.header('content-type') ?? '')
  const files = new RequestBody(c.req.raw)
  const body = await reading(files, () => (hasFiles ? files.readLine() : files.readAll()))
  if (!claims) return { id, attempt: null, body, files }
  checkBody(claims, body)
  useToken(claims)
  return { id, attempt: claims.attempt, body, files }
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
async function reading<T>(body: RequestBody, read: () => Promise<T>): Promise<T> {
  try {
    return await read()
  } catch (error) {
    await body.discard()
    throw error
  }
}

/** The claims of the request's token; null without authentication. */
async function readClaims(c: Context, { edgePublicKeys }: ServerOptions): Promise<Claims | null> {
  if (!edgePublicKeys) return null
  return verifyToken(edgePublicKeys, c.req.header(GPU_TOKEN.header) ?? c.req.header('authorization'))
}

async function putJob({ id, attempt, body, files }: Signed, options: ServerOptions): Promise<Response> {
  const request = await reading(files, async () => parseRequest(body))
  if (attempt !== null && attempt !== request.attempt)
    throw new Refusal('token_mismatch', `the token is for attempt ${attempt}, the body for attempt ${request.attempt}`)
  const inputs = await reading(files, () => files.readFiles(request.inputs ?? []))
  const { jobs, heartbeatMs = HEARTBEAT_MS } = options
  const job = jobs.submit(id, request, inputs)
  const accepted = { type: 'accepted', job: id, attempt: request.attempt, position: jobs.position(job) } as const
  return new Response(jobStream(job, accepted, heartbeatMs, jobs.attach(job)), {
    headers: { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' },
  })
}

function deleteJob({ id, attempt }: Signed, { jobs }: ServerOptions): Response {
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
