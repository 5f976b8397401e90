// An image that was made before need not be made again: the newest job of an account for each request, found by the request's digest.
import type { Env } from './env.ts'
import type { JobRecord, JobSpec } from './job-record.ts'
import { sha256 } from './keys.ts'
import { isKept } from './results.ts'

/** The digest of what decides over the pixels and their file. Previews do not. */
async function digestOf({ preview_steps: _, ...request }: JobSpec['request']): Promise<string> {
  const sorted = Object.entries(request).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return sha256(JSON.stringify(sorted))
}

const keyOf = async (account: string, request: JobSpec['request']) => `reuse/${account}/${await digestOf(request)}`

/** Notes a job that succeeded as the answer to the next identical request. */
export async function rememberForReuse(env: Pick<Env, 'RESULTS'>, { id, account, request }: JobRecord): Promise<void> {
  await env.RESULTS.put(await keyOf(account, request), id)
}

/** The finished job of this account for the same request, with all of its files still there; null when there is none. */
export async function findReusable(
  env: Pick<Env, 'RESULTS' | 'JOB'>,
  account: string,
  request: JobSpec['request'],
): Promise<JobRecord | null> {
  const note = await env.RESULTS.get(await keyOf(account, request))
  const job = note && (await env.JOB.getByName(await note.text()).view())
  if (job?.state !== 'succeeded' || job.account !== account || !job.images.every(isKept)) return null
  const files = await Promise.all(job.images.map(({ key }) => env.RESULTS.head(key)))
  return files.includes(null) ? null : job
}
