// The steps after a job's end: settlement, announcement, deletion of its files and of the job. Each step is idempotent.
import { reportHealth } from '../gpu/health.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { log } from '../platform/log.ts'
import { deletePrefix } from '../results/results.ts'
import { resultPrefix } from '../results/retention.ts'
import { announce } from './announcement.ts'
import { measure, observeJob } from './observe.ts'
import { summaryOf } from './projection.ts'
import { chargeOf, isRetryable, type JobRecord } from './record.ts'

/** Captures or releases the price of a final job. False if the account is unreachable and the call must be repeated. */
export async function settleJob(env: Env, job: JobRecord): Promise<boolean> {
  const amount = chargeOf(job)
  try {
    await objectOf(env.ACCOUNT, job.account).settle(job.id, {
      ...{ outcome: amount > 0 ? 'captured' : 'released', amount, observed: measure(job) },
      ...{ summary: summaryOf(job), retryable: isRetryable(job) },
    })
  } catch (cause) {
    log('error', 'a job could not be settled yet', { job: job.id, cause })
    return false
  }
  observeJob(env, job)
  if (job.endpoint !== null && job.state === 'succeeded') void reportHealth(env, job.endpoint, 'ready')
  return true
}

/** Publishes the event of a settled job to the webhooks. False if the call must be repeated. */
export async function announceJob(env: Env, job: JobRecord): Promise<boolean> {
  try {
    await announce(env, job)
    return true
  } catch (cause) {
    log('error', 'a job could not be announced yet', { job: job.id, cause })
    return false
  }
}

/** Deletes files of a job in R2 and updates the account's list of jobs. */
export async function deleteFiles(env: Env, job: JobRecord, keys: readonly string[]): Promise<void> {
  await objectOf(env.ACCOUNT, job.account).updateSummary(job.id, summaryOf(job))
  await env.RESULTS.delete([...keys])
}

/** Deletes all files of a job, including those of earlier attempts. */
async function deleteAllFiles(env: Env, { account, id, retentionDays }: JobRecord): Promise<void> {
  while (!(await deletePrefix(env.RESULTS, `${resultPrefix(retentionDays, account)}${id}/`)));
}

/** Removes a job from R2, the webhooks and its account's ledger. False while the ledger still needs the row. */
export async function forgetJob(env: Env, job: JobRecord): Promise<boolean> {
  await deleteAllFiles(env, job)
  await objectOf(env.WEBHOOK, job.account).forgetJob(job.id)
  return objectOf(env.ACCOUNT, job.account).forgetJob(job.id)
}
