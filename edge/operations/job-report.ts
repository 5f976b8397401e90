// The operator's report on a job, from all of its stores: with internal causes, without prompts or secrets.

import type { JobRecord, LogEntry, LoggedEvent } from '../jobs/record.ts'
import { objectOf } from '../platform/durable-objects.ts'
import type { JobReport, ReportedEntry } from './replies.ts'

/** Event types with one event per step. The report combines them into ranges. */
const STEADY: ReadonlySet<LoggedEvent['type']> = new Set(['step', 'preview'])

/** A log entry without bytes and receipts. Warnings are reduced to their codes, because their messages quote the prompt. */
function describeEntry({ seq, attempt, at, event }: LogEntry): ReportedEntry {
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
type Run = ReportedEntry & { last?: ReportedEntry }

/** The log, with each series of steps condensed to its first entry, whose `last` is the last step. */
function condense(log: LogEntry[]): Run[] {
  const rows: Run[] = []
  for (const entry of log.map(describeEntry)) {
    const before = rows.at(-1)
    const goesOn = before?.type === entry.type && before.attempt === entry.attempt && STEADY.has(entry.type)
    if (goesOn) before.last = entry
    else rows.push(entry)
  }
  return rows
}

/** The request, with prompts replaced by their lengths. */
function describeRequest({ request: { prompt, negative_prompt, ...parameters } }: JobRecord) {
  return { ...parameters, prompt_characters: prompt.length, negative_prompt_characters: negative_prompt.length }
}

/** The report on a job id; null if neither a job nor a ledger entry of `account` has it. Times are Unix milliseconds. */
export async function reportOf(env: Env, id: string, account: string | undefined): Promise<JobReport | null> {
  const object = objectOf(env.JOB, id)
  const job = await object.view()
  const owner = job?.account ?? account
  const ledger = owner === undefined ? null : await objectOf(env.ACCOUNT, owner).entry(id)
  if (!job || !owner) return ledger && { id, account: owner!, job: null, ledger }
  const { request: _, warnings: __, origin: ___, fingerprint: ____, images, ...record } = job
  const stored = images.map(async ({ receipt, ...image }) => {
    const object = await env.RESULTS.head(image.key)
    return { ...image, receipt: receipt !== undefined, in_store: object?.size === image.bytes }
  })
  return {
    ...{ id, account: owner, job: { ...record, asked: describeRequest(job) }, ledger },
    events: condense(await object.events()),
    images: await Promise.all(stored),
    webhooks: await objectOf(env.WEBHOOK, owner).deliveriesOf(`evt_${id}`),
  }
}
