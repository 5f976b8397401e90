// What happened to a job, from every place that knows: for the operator, so with internal causes and without prompts or secrets.
import type { Env } from './env.ts'
import type { LogEntry } from './job-log.ts'
import type { JobRecord, LoggedEvent } from './job-record.ts'
import { objectOf } from './objects.ts'

/** Events that come once a step: their numbers tell more than their rows. */
const STEADY: ReadonlySet<LoggedEvent['type']> = new Set(['step', 'preview'])

/** An entry as it is reported: no bytes, no receipts, and of warnings the code alone, because they quote the prompt. */
function reported({ seq, attempt, at, event }: LogEntry) {
  const entry = { seq, attempt, at, type: event.type }
  switch (event.type) {
    case 'warning':
      return { ...entry, code: event.code }
    case 'stored': {
      const { receipt: _, ...image } = event.image
      return { ...entry, ...image }
    }
    case 'preview':
      return { ...entry, image: event.image, step: event.step }
    case 'succeeded':
      return { ...entry, timings: event.timings, receipts: event.stored.filter(({ receipt }) => receipt).length }
    default:
      return { ...entry, ...event }
  }
}
type Reported = ReturnType<typeof reported> & { last?: ReturnType<typeof reported> }

/** The log with each run of steps as one entry, which has the run's end in `last`. */
function condensed(log: LogEntry[]): Reported[] {
  const rows: Reported[] = []
  for (const entry of log.map(reported)) {
    const before = rows.at(-1)
    const goesOn = before?.type === entry.type && before.attempt === entry.attempt && STEADY.has(entry.type)
    if (goesOn) before.last = entry
    else rows.push(entry)
  }
  return rows
}

/** What was asked, with the prompts told by their length. */
function askedOf({ request: { prompt, negative_prompt, ...parameters } }: JobRecord) {
  return { ...parameters, prompt_characters: prompt.length, negative_prompt_characters: negative_prompt.length }
}

/** Everything that is known of a job id; null when neither a job nor a ledger entry of `account` has it. Times are Unix milliseconds. */
export async function reportOf(env: Env, id: string, account: string | undefined) {
  const object = objectOf(env.JOB, id)
  const job = await object.view()
  const owner = job?.account ?? account
  const ledger = owner === undefined ? null : await objectOf(env.ACCOUNT, owner).entry(id)
  if (!job || !owner) return ledger && { id, account: owner, job: null, ledger }
  const { request: _, warnings: __, origin: ___, fingerprint: ____, images, ...record } = job
  const stored = images.map(async ({ receipt, ...image }) => {
    const object = await env.RESULTS.head(image.key)
    return { ...image, receipt: receipt !== undefined, in_store: object?.size === image.bytes }
  })
  return {
    ...{ id, account: owner, job: { ...record, asked: askedOf(job) }, ledger },
    events: condensed(await object.events()),
    images: await Promise.all(stored),
    webhooks: await objectOf(env.WEBHOOK, owner).deliveriesOf(`evt_${id}`),
  }
}
