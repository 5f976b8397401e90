// The steps after a job's end: settlement, announcement, deletion of its files and of the job. Each step is idempotent.
import { reportHealth } from '../gpu/health.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { log } from '../platform/log.ts'
import { DAY_MS } from '../platform/units.ts'
import { deleteInputs } from '../results/inputs.ts'
import { deletePrefix } from '../results/results.ts'
import { computeRetentionEnd, resultPrefixOf } from '../results/retention.ts'
import { announce } from './announcement.ts'
import type { JobLog } from './event-log.ts'
import { measure, observeJob } from './observe.ts'
import { summaryOf } from './projection.ts'
import { chargeOf, isOver, isRetryable, type JobRecord } from './record.ts'

/** The pause after a failed settlement or announcement. It doubles up to the longest. */
const UNFINISHED_MS = 5_000
const LONGEST_PAUSE_MS = 10 * 60_000

/** Captures or releases the price of a final job. False if the account is unreachable and the call must be repeated. */
async function settleJob(env: Env, job: JobRecord): Promise<boolean> {
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
async function announceJob(env: Env, job: JobRecord): Promise<boolean> {
  try {
    await announce(env, job)
    return true
  } catch (cause) {
    log('error', 'a job could not be announced yet', { job: job.id, cause })
    return false
  }
}

/** Updates the account's list of jobs and deletes files of a job in R2: those with these keys, or all. */
export async function deleteFiles(env: Env, job: JobRecord, keys: readonly string[] | null): Promise<void> {
  await objectOf(env.ACCOUNT, job.account).updateSummary(job.id, summaryOf(job))
  if (keys === null) await deleteAllFiles(env, job)
  else await env.RESULTS.delete([...keys])
}

/** Deletes all files of a job, including those of earlier attempts. */
async function deleteAllFiles(env: Env, { account, id, retentionDays }: JobRecord): Promise<void> {
  while (!(await deletePrefix(env.RESULTS, `${resultPrefixOf(retentionDays, account)}${id}/`)));
}

/** Removes a job from R2, the webhooks and its account's ledger. False while the ledger still needs the row. */
async function forgetJob(env: Env, job: JobRecord): Promise<boolean> {
  await deleteAllFiles(env, job)
  await objectOf(env.WEBHOOK, job.account).forgetJob(job.id)
  return objectOf(env.ACCOUNT, job.account).forgetJob(job.id)
}

/** The end of one job: settlement, announcement, and deletion after its retention. */
export class JobEnd {
  readonly #env: Env
  readonly #storage: DurableObjectStorage
  readonly #log: JobLog
  #settling: Promise<JobRecord> | null = null
  #finishing: Promise<void> | null = null
  /** Consecutive failures of settlement or announcement. */
  #failures = 0

  constructor(env: Env, storage: DurableObjectStorage, jobLog: JobLog) {
    this.#env = env
    this.#storage = storage
    this.#log = jobLog
  }

  /** Settles and announces a final job, then sets the alarm for its deletion. Failed steps are repeated. */
  finish(): Promise<void> {
    this.#finishing ??= this.#finishOnce().finally(() => {
      this.#finishing = null
    })
    return this.#finishing
  }

  async #finishOnce(): Promise<void> {
    const job = await this.settle()
    if (!job.announced) await deleteInputs(this.#env, job)
    if (job.settled && Date.now() >= computeRetentionEnd(job)) return this.#expire()
    if (job.settled && !job.announced && (await announceJob(this.#env, job))) this.#log.update({ announced: true })
    if (isOver(this.#log.job())) return this.#storage.setAlarm(computeRetentionEnd(job))
    await this.#storage.setAlarm(Date.now() + Math.min(UNFINISHED_MS * 2 ** this.#failures++, LONGEST_PAUSE_MS))
  }

  /** Settles the price of a final job. Concurrent calls share one settlement. */
  settle(): Promise<JobRecord> {
    const job = this.#log.job()
    if (job.settled) return Promise.resolve(job)
    this.#settling ??= settleJob(this.#env, job)
      .then((settled) => {
        if (settled) this.#log.update({ settled: true })
        return this.#log.job()
      })
      .finally(() => {
        this.#settling = null
      })
    return this.#settling
  }

  /** Deletes an expired job once its ledger row has been exported; until then it retries daily. */
  async #expire(): Promise<void> {
    if (!(await forgetJob(this.#env, this.#log.job()))) return this.#storage.setAlarm(Date.now() + DAY_MS)
    await this.clear()
  }

  /** Waits for the running finish, if any. */
  async waitUntilIdle(): Promise<void> {
    while (this.#finishing) await this.#finishing
  }

  /** Deletes everything that the object has stored. */
  async clear(): Promise<void> {
    await this.#storage.deleteAlarm()
    await this.#storage.deleteAll()
  }
}
