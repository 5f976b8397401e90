// The job that a path names, for its owner: by the id that it was given here, or by the name that the owner gave it.
import type { Context } from 'hono'
import { jobId } from '#contract'
import { owner } from './auth.ts'
import type { EdgeEnv } from './env.ts'
import { ApiError } from './errors.ts'
import { JOB_ID, type JobRecord, namedJobId } from './job-record.ts'
import type { Scope } from './keys.ts'

/** The id behind what a caller calls a job; null when it cannot be one. */
export async function resolveJobId(account: string, given: string): Promise<string | null> {
  if (JOB_ID.test(given)) return given
  return jobId.safeParse(given).success ? namedJobId(account, given) : null
}

/** The job of the path's `:id`. Another account's job is as absent as one that never was. Errors: invalid_api_key, insufficient_scope, not_found. */
export async function ownJob(c: Context<EdgeEnv>, scope: Scope): Promise<JobRecord> {
  const { account } = await owner(c, scope)
  const given = c.req.param('id') ?? ''
  const id = await resolveJobId(account, given)
  const job = id && (await c.env.JOB.getByName(id).view())
  if (!job || job.account !== account) throw new ApiError('not_found', `There is no job ${given}.`)
  return job
}
