// `npm run job -- ID`: a report on a job, for the operator of a local or deployed worker.
import { Command } from 'commander'
import type { JobReport } from '../../edge/operations/replies.ts'
import { print, printError } from '../command/print.ts'
import { addWorkerOptions } from '../command/worker-options.ts'

type Entry = NonNullable<JobReport['events']>[number]

const formatDollars = (micro: number) => `$${(micro / 1e6).toFixed(6)}`
const formatIso = (milliseconds: number) => new Date(milliseconds).toISOString()
const formatSince = (start: number, at: number) => `+${((at - start) / 1000).toFixed(3)} s`
const fieldsOf = (fields: object) =>
  Object.entries(fields)
    .map(([name, value]) => `${name} ${typeof value === 'object' ? JSON.stringify(value) : value}`)
    .join(', ')
const formatLine = (name: string, text: string) => `${name.padEnd(10)}${text}`

function formatEventLine(start: number, { seq: _, attempt, at, type, last, ...fields }: Entry): string {
  const when = formatSince(start, at).padStart(12)
  const end = last ? ` to step ${last.step}, image ${last.image}, at ${formatSince(start, last.at)}` : ''
  return `${when}  attempt ${attempt}  ${`${type} ${fieldsOf(fields)}`.trim()}${end}`
}

function formatDeliveryLines({
  endpoint,
  type,
  state,
  attempts,
}: NonNullable<JobReport['webhooks']>[number]): string[] {
  const tries = attempts.map(({ at, status, error, milliseconds }) => {
    return `${formatIso(at)}  ${status ?? error} after ${milliseconds} ms`
  })
  return [formatLine('webhook', `${type} to ${endpoint}: ${state}`), ...tries.map((text) => formatLine('', text))]
}

function readJobLines(found: NonNullable<JobReport['job']>, events: Entry[]): string[] {
  const { decision, asked, created, finished, timings, ran, error, settled, announced } = found
  return [
    formatLine(
      'created',
      `${formatIso(created)} with key ${found.keyId}${found.name === null ? '' : `, as ${found.name}`}`,
    ),
    formatLine('request', fieldsOf(asked)),
    formatLine('route', `${decision.route} at endpoint ${decision.endpoint}: ${decision.reason}`),
    ...events.map((each) => formatEventLine(created, each)),
    formatLine('finished', finished === null ? 'not yet' : `${formatIso(finished)}, ${formatSince(created, finished)}`),
    ...(error ? [formatLine('error', `${error.code}: ${error.message}`)] : []),
    ...(ran ? [formatLine('ran', `on ${ran.device}, package ${ran.package}`)] : []),
    ...(timings ? [formatLine('seconds', fieldsOf(timings))] : []),
    formatLine('done', `settled ${settled ? 'yes' : 'no'}, announced ${announced ? 'yes' : 'no'}`),
  ]
}

/** The storage state of an image. One that is neither stored, deleted nor expired is lost. */
function describeStorage({ in_store, deleted, expires_at }: NonNullable<JobReport['images']>[number]): string {
  if (deleted) return 'deleted by its owner'
  if (expires_at * 1000 <= Date.now()) return `expired at ${formatIso(expires_at * 1000)}`
  return in_store ? 'stored' : 'LOST'
}

/** Formats the report as text. */
export function formatReport({ id, account, job, ledger, events = [], images = [], webhooks = [] }: JobReport): string {
  const money = ledger
    ? `${ledger.state}, ${formatDollars(ledger.charged)} of ${formatDollars(ledger.amount)}${ledger.settled ? ` at ${formatIso(ledger.settled)}` : ''}`
    : 'no entry'
  return [
    `${id} of account ${account}: ${job?.state ?? 'reserved, but never created; its reservation will be released'}`,
    ...(job ? readJobLines(job, events) : []),
    formatLine('ledger', money),
    ...images.map((each) =>
      formatLine(
        'image',
        `${each.key}, ${each.bytes} bytes, ${describeStorage(each)}, ${each.receipt ? '' : 'no '}receipt`,
      ),
    ),
    ...(webhooks.length > 0 ? webhooks.flatMap(formatDeliveryLines) : [formatLine('webhook', 'none')]),
  ].join('\n')
}

type Target = { url: string; token: string; account?: string }

/** Requests the report from the worker. Throws with the worker's error message. */
export async function readReport(id: string, { url, token, account }: Target): Promise<JobReport> {
  const address = new URL(`/v1/operator/jobs/${encodeURIComponent(id)}`, url)
  if (account !== undefined) address.searchParams.set('account', account)
  const response = await fetch(address, { headers: { authorization: `Bearer ${token}` } }).catch((cause) => {
    throw new Error(`no worker responds at ${url}; set --url`, { cause })
  })
  const reply: unknown = await response.json().catch(() => ({}))
  if (!response.ok) throw new Error((reply as { detail?: string }).detail ?? `${url} returned ${response.status}`)
  return reply as JobReport
}

if (import.meta.main) {
  await addWorkerOptions(new Command('job'))
    .description('Reports on a job: request, route, events, ledger, images and webhooks.')
    .argument('<id>', 'job_…, or the name given by the account')
    .option('--account <name>', 'account of the job; required for a name, and for a job that was never created')
    .action(async (id, target) => print(formatReport(await readReport(id, target))))
    .parseAsync()
    .catch((error: Error) => {
      printError('job', error)
      process.exitCode = 1
    })
}
