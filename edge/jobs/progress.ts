// Reports the progress of a running job to the request's webhook URL, if the request selects such events.
import { objectOf } from '../platform/durable-objects.ts'
import { progressEventOf } from './announcement.ts'
import type { JobLog } from './event-log.ts'
import { waitForChange } from './events.ts'
import { isFinal, type JobRecord, type LoggedEvent } from './record.ts'

type Kind = 'logs' | 'start'

/** The kind of the webhook event that a log entry causes. */
const KINDS: Partial<Record<LoggedEvent['type'], Kind>> = {
  started: 'start',
  step: 'logs',
  warning: 'logs',
}
/** Minimum interval before the next event of the kind `logs`. */
const PAUSE_MS = 500
/** Maximum wait for the next log entry. A GPU sends one every few seconds. */
const WAIT_MS = 60_000

export const selectsProgress = ({ webhook, webhookEvents = [] }: JobRecord): boolean =>
  webhook !== null && Object.values(KINDS).some((kind) => webhookEvents.includes(kind))

/** Sends the job's state after entries of the selected kinds, until its end or the first failure of the receiver. */
export async function reportProgress(env: Env, log: Pick<JobLog, 'after' | 'changed' | 'find' | 'job'>): Promise<void> {
  const { webhook, webhookEvents = [] } = log.job()
  const due = new Set<Kind>()
  let last = log.after(0).at(-1)?.seq ?? 0
  let pauseEnd = 0
  for (;;) {
    const entries = log.after(last)
    last = entries.at(-1)?.seq ?? last
    for (const { event } of entries) {
      const kind = KINDS[event.type]
      if (kind && webhookEvents.includes(kind)) due.add(kind)
    }
    const job = log.find()
    // The job was erased with its account.
    if (!job) return
    if (due.has('start') || (due.has('logs') && Date.now() >= pauseEnd && !isFinal(job))) {
      due.clear()
      const outcome = await objectOf(env.WEBHOOK, job.account).sendProgress(progressEventOf(job, last), webhook!)
      if (outcome === 'failed') return
      pauseEnd = Date.now() + PAUSE_MS
    } else if (isFinal(job)) return
    else await waitForChange(log, due.size > 0 ? pauseEnd - Date.now() : WAIT_MS)
  }
}
