// Finds the job of a path by its id or by its owner's name for it, and checks ownership.
import type { Context } from 'hono'
import { jobId } from '#contract'
import { requireScope } from '../auth/auth.ts'
import { areLinksValid, createLinkRevokedError, type OpenLink } from '../auth/links.ts'
import type { Scope } from '../auth/scopes.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { JOB_ID } from '../jobs/job-id.ts'
import { isOwner } from '../jobs/ownership.ts'
import type { JobRecord } from '../jobs/record.ts'
import { objectOf } from '../platform/durable-objects.ts'

/** The id of an account's job from an id or a name; null for an unknown name. */
export async function resolveJobId(env: Env, account: string, given: string): Promise<string | null> {
  if (JOB_ID.test(given)) return given
  return jobId.safeParse(given).success ? objectOf(env.ACCOUNT, account).findJobByName(given) : null
}

const createNotFoundError = (job: string) => new ApiError('not_found', `There is no job ${job}.`)

/** The job with an id or name, by default of the path's `:id`. Jobs without access are reported as not found. Errors: invalid_api_key, insufficient_scope, not_found. */
export async function findOwnJob(
  c: Context<EdgeEnv>,
  scope: Scope,
  given: string = c.req.param('id') ?? '',
): Promise<JobRecord> {
  const credential = await requireScope(c, scope)
  const id = await resolveJobId(c.env, credential.account, given)
  const job = id && (await objectOf(c.env.JOB, id).view())
  if (job && isOwner(credential, job)) return job
  throw createNotFoundError(given)
}

/** The job of the path's `:id` by its signed link. Errors: not_found, link_revoked. */
export async function findLinkedJob(c: Context<EdgeEnv>, { key }: OpenLink): Promise<JobRecord> {
  const id = c.req.param('id') ?? ''
  const job = await objectOf(c.env.JOB, id).view()
  if (!job) throw createNotFoundError(id)
  if (!(await areLinksValid(c.env, job.account, key ?? job.keyId))) throw createLinkRevokedError()
  return job
}
