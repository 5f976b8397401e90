// What is left to do of a job that has ended: settle its price, then tell the webhooks. Repeats do no harm, and what fails is done again.
import type { Env } from './env.ts'
import { observe } from './forecast.ts'
import type { JobLog } from './job-log.ts'
import { costOf, type JobRecord } from './job-record.ts'
import { log } from './log.ts'
import { observeJob } from './observe.ts'
import { tellWarmth } from './warm.ts'
import { announce } from './webhooks.ts'

/** Captures or releases the price of a final job and returns the job as it then stands. */
export async function settle(env: Env, jobLog: JobLog): Promise<JobRecord> {
  const job = jobLog.job()
  if (job.settled) return job
  const amount = costOf(job)
  const outcome = amount > 0 ? 'captured' : 'released'
  try {
    // The caller is asked to try again, which must not find this job under its Idempotency-Key.
    const forget = job.error?.code === 'gpu_unavailable'
    await env.ACCOUNT.getByName(job.account).settle(job.id, { outcome, amount, observed: observe(job), forget })
    if (!jobLog.job().settled) observeJob(env, job)
    if (job.endpoint !== null && job.state === 'succeeded') await tellWarmth(env, job.endpoint, 'ready')
    jobLog.update({ settled: true })
  } catch (cause) {
    log('error', 'a job could not be settled yet', { job: job.id, cause })
  }
  return jobLog.job()
}

/** Settles a final job, then tells the webhooks: an image can be fetched, and is paid for, before anybody hears of it. */
export async function settleAndAnnounce(env: Env, jobLog: JobLog): Promise<JobRecord> {
  const job = await settle(env, jobLog)
  if (!job.settled || job.announced) return job
  try {
    await announce(env, job)
    jobLog.update({ announced: true })
  } catch (cause) {
    log('error', 'a job could not be announced yet', { job: job.id, cause })
  }
  return jobLog.job()
}
