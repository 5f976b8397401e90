// The routes of dialects without a job: lists, facts about the deployment, the choice of a model, and interruption.
import type { Context } from 'hono'
import type { JobSpec } from '../../accounts/job-spec.ts'
import { requireScope } from '../../auth/auth.ts'
import { lorasOf } from '../../config/additions.ts'
import { configOf } from '../../config.ts'
import type { Dialect, DialectRoute, JsonReply, OpenJob } from '../../dialects/definition/dialect.ts'
import type { ListedJob } from '../../dialects/definition/public-job.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { isFinal } from '../../jobs/record.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { readDialectRequest } from '../../requests/dialect-request.ts'
import { listJobs, readerOf } from '../../requests/view.ts'
import { checkModel } from '../../routing/alias.ts'

type RouteOf<Action> = Extract<DialectRoute, { action: Action }>

async function findOpenJob(env: Env, jobs: readonly ListedJob[]): Promise<OpenJob | null> {
  const listed = jobs.find(({ state }) => state === 'in_progress')
  const job = listed && (await objectOf(env.JOB, listed.id).view())
  return job && !isFinal(job) ? { progress: job.progress, parameters: job.request } : null
}

async function listPage(c: Context<EdgeEnv>, route: RouteOf<'list'>): Promise<JsonReply> {
  const { account } = await requireScope(c, 'read')
  const request = await readDialectRequest(c)
  const { data, next } = await listJobs(readerOf(c), account, route.parse(request))
  return route.render(data, next, request, route.showsOpen ? await findOpenJob(c.env, data) : null)
}

async function describe(
  c: Context<EdgeEnv>,
  { accepts, showsChoice, render }: RouteOf<'describe'>,
): Promise<JsonReply> {
  const { account, keyId } = c.get('credential')
  const models = [...new Set(configOf(c.env).catalog.offers.map(({ model }) => model))]
  const chosen = showsChoice ? await objectOf(c.env.ACCOUNT, account).chosenModel(keyId) : null
  const loras = lorasOf(configOf(c.env).catalog, account).map(({ id }) => id)
  return render({ models, loras, account, chosen }, await readDialectRequest(c, accepts))
}

/** Stores the key's model. A name without an alias that is not served is an error. */
async function choose(c: Context<EdgeEnv>, { accepts, parse, render }: RouteOf<'choose'>): Promise<JsonReply> {
  const { account, keyId } = await requireScope(c, 'generate')
  const name = parse(await readDialectRequest(c, accepts))
  if (name === undefined) return render()
  const model = checkModel(configOf(c.env).catalog, name) ?? null
  await objectOf(c.env.ACCOUNT, account).chooseModel(keyId, model)
  return render()
}

/** Maximum number of jobs that one interruption cancels. */
const MAX_INTERRUPTED = 100

/** Cancels the open jobs of the same key or browser token and dialect. */
async function interrupt(c: Context<EdgeEnv>, dialect: Dialect, { render }: RouteOf<'interrupt'>): Promise<JsonReply> {
  const credential = await requireScope(c, 'generate')
  const token = 'token' in credential ? credential.token.id : null
  const jobs = (await objectOf(c.env.ACCOUNT, credential.account).recentJobs(MAX_INTERRUPTED)) ?? []
  const open = jobs.filter(
    (job): job is JobSpec =>
      !('state' in job) && job.dialect === dialect.name && job.keyId === credential.keyId && job.token === token,
  )
  await Promise.all(open.map(({ id }) => objectOf(c.env.JOB, id).cancel()))
  return render()
}

/** The reply of a route without a job. */
export async function replyTo(
  c: Context<EdgeEnv>,
  dialect: Dialect,
  route: RouteOf<'choose' | 'describe' | 'interrupt' | 'list'>,
): Promise<JsonReply> {
  switch (route.action) {
    case 'list':
      return listPage(c, route)
    case 'describe':
      return describe(c, route)
    case 'choose':
      return choose(c, route)
    case 'interrupt':
      return interrupt(c, dialect, route)
  }
}
