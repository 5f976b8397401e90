import { type Context, Hono } from 'hono'
import { cors } from 'hono/cors'
import type { Dialect, DialectRoute } from '../../dialects/definition/dialect.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { describeThrown, onMethodNotAllowed } from '../../http/errors.ts'
import { replyWithHeartbeat } from '../../http/heartbeat.ts'
import { MAX_WAIT_SECONDS } from '../../http/prefer.ts'
import { EXPOSED_HEADERS, PREFLIGHT_SECONDS } from '../../http/response-headers.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { readDialectRequest, readTranslation } from '../../requests/dialect-request.ts'
import type { Submission, SubmittedJob } from '../../requests/generate.ts'
import { findOwnJob } from '../../requests/own-job.ts'
import { generateAsCaller, submitAndWait } from '../../requests/submission.ts'
import { replyTo } from './dialect-facts.ts'
import { findLinkedJob, followAsDialect } from './follow-job.ts'
import { checkBase64Size, type Files, fitsBase64, renderJob } from './render-job.ts'
import { streamJob } from './stream-job.ts'

type RouteOf<Action> = Extract<DialectRoute, { action: Action }>

async function submitJob(c: Context<EdgeEnv>, dialect: Dialect, route: RouteOf<'submit'>): Promise<Response> {
  const others = route.methodsOf?.(c.req.path)
  if (others) return onMethodNotAllowed(c, others)
  const translated = await readTranslation(c, dialect.name, route)
  const { request, wait, fields, submission } = translated
  if (wait === 'stream') return streamJob(c, route.stream!, fields, submission)
  if (wait === 'events')
    return followAsDialect(c, dialect, route, (await submitAndWait(c, fields, submission, 0)).job, request)
  const files = filesOf(translated)
  if (files === 'b64_json') checkBase64Size(submission.spec)
  const reply = (submitted: SubmittedJob) =>
    renderJob(c, dialect, (rendered) => route.render(rendered, request), submitted, files)
  if (wait === 'end' && route.hasHeartbeat) return replyWhenDone(c, fields, submission, reply)
  if (wait === 'end') return reply(await generateAsCaller(c, fields, submission))
  return reply(await submitAndWait(c, fields, submission, Math.min(wait || 0, MAX_WAIT_SECONDS) * 1000))
}

type TranslatedRequest = Awaited<ReturnType<typeof readTranslation>>

/** The form of files in the reply. In the form `both`, files that are too large for base64 are links only. */
function filesOf({ files, fields, submission }: TranslatedRequest): Files {
  return files === 'both' && fitsBase64(submission.spec) ? files : fields.response_format
}

/** Runs the job and replies, with spaces ahead of a slow reply. A failure that does not reach the caller is kept for its retry. */
function replyWhenDone(
  c: Context<EdgeEnv>,
  fields: TranslatedRequest['fields'],
  submission: Submission,
  reply: (submitted: SubmittedJob) => Promise<Response>,
): Promise<Response> {
  let job: string | null = null
  const running = generateAsCaller(c, fields, submission, (id) => {
    job = id
  })
  return replyWithHeartbeat(c, {
    work: running.then(reply),
    headers: () => (job ? { 'x-octet-job': job } : {}),
    onFailure: async (thrown) => {
      if (job) await objectOf(c.env.ACCOUNT, submission.spec.account).keepUndelivered(job)
      return JSON.stringify(describeThrown(c, thrown))
    },
  })
}

async function showJob(c: Context<EdgeEnv>, dialect: Dialect, route: RouteOf<'cancel' | 'read'>): Promise<Response> {
  const isCancel = route.action === 'cancel'
  const found = await findOwnJob(c, isCancel ? 'generate' : 'read')
  const job = isCancel ? await objectOf(c.env.JOB, found.id).cancel() : found
  const request = await readDialectRequest(c)
  return renderJob(c, dialect, (rendered) => route.render(rendered, request), { job, reused: false, rates: [] })
}

async function followOwnJob(c: Context<EdgeEnv>, dialect: Dialect, route: RouteOf<'follow'>): Promise<Response> {
  const job = c.get('link') ? await findLinkedJob(c) : await findOwnJob(c, 'read')
  return followAsDialect(c, dialect, route, job, await readDialectRequest(c))
}

async function respond(c: Context<EdgeEnv>, dialect: Dialect, route: DialectRoute): Promise<Response> {
  if (route.action === 'submit') return submitJob(c, dialect, route)
  if (route.action === 'cancel' || route.action === 'read') return showJob(c, dialect, route)
  if (route.action === 'follow') return followOwnJob(c, dialect, route)
  const reply = await replyTo(c, dialect, route)
  return c.json(reply.json as object, reply.status ?? 200, reply.headers)
}

/** The routes of dialects. */
export function createDialectRoutes(dialects: readonly Dialect[]): Hono<EdgeEnv> {
  const routes = new Hono<EdgeEnv>()
  for (const dialect of dialects)
    for (const route of dialect.routes) routes.on(route.method, route.path, (c) => respond(c, dialect, route))
  return routes
}

/** Middleware for the credentials, errors and CORS of dialects. It precedes all checks, so that every error has the dialect's format. */
export function createDialectSettings(dialects: readonly Dialect[]): Hono<EdgeEnv> {
  const settings = new Hono<EdgeEnv>()
  for (const dialect of dialects)
    for (const path of new Set(dialect.routes.map((route) => route.path))) {
      const { origins = '*', exposedHeaders = [] } = dialect.cors ?? {}
      settings.use(path, (c, next) => {
        if (dialect.error) c.set('renderError', dialect.error)
        if (dialect.keyPlaces) c.set('keyPlaces', dialect.keyPlaces)
        return next()
      })
      const exposeHeaders = [...EXPOSED_HEADERS, ...exposedHeaders]
      settings.use(path, cors({ origin: origins, exposeHeaders, maxAge: PREFLIGHT_SECONDS }))
    }
  return settings
}
