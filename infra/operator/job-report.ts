// `npm run job -- ID`: what happened to a job, on one screen, for the operator of a local or a deployed worker.
import { Command, Option } from 'commander'
import type { JobReport } from '../../edge/operations/replies.ts'

type Entry = NonNullable<JobReport['events']>[number]

const dollars = (micro: number) => `$${(micro / 1e6).toFixed(6)}`
const iso = (milliseconds: number) => new Date(milliseconds).toISOString()
const since = (start: number, at: number) => `+${((at - start) / 1000).toFixed(3)} s`
const fieldsOf = (fields: object) =>
  Object.entries(fields)
    .map(([name, value]) => `${name} ${typeof value === 'object' ? JSON.stringify(value) : value}`)
    .join(', ')
const line = (name: string, text: string) => `${name.padEnd(10)}${text}`

function eventLine(start: number, { seq: _, attempt, at, type, last, ...fields }: Entry): string {
  const when = since(start, at).padStart(12)
  const end = last ? ` to step ${last.step}, image ${last.image}, at ${since(start, last.at)}` : ''
  return `${when}  attempt ${attempt}  ${`${type} ${fieldsOf(fields)}`.trim()}${end}`
}

function deliveryLines({ endpoint, type, state, attempts }: NonNullable<JobReport['webhooks']>[number]): string[] {
  const tries = attempts.map(({ at, status, error, milliseconds }) => {
    return `${iso(at)}  ${status ?? error} after ${milliseconds} ms`
  })
  return [line('webhook', `${type} to ${endpoint}: ${state}`), ...tries.map((text) => line('', text))]
}

function jobLines(found: NonNullable<JobReport['job']>, events: Entry[]): string[] {
  const { decision, asked, created, finished, timings, ran, error, settled, announced } = found
  return [
    line('created', `${iso(created)} with key ${found.keyId}${found.name === null ? '' : `, as ${found.name}`}`),
    line('asked', fieldsOf(asked)),
    line('route', `${decision.route} at endpoint ${decision.endpoint}: ${decision.reason}`),
    ...events.map((each) => eventLine(created, each)),
    line('finished', finished === null ? 'not yet' : `${iso(finished)}, ${since(created, finished)}`),
    ...(error ? [line('error', `${error.code}: ${error.message}`)] : []),
    ...(ran ? [line('ran', `on ${ran.device}, package ${ran.package}`)] : []),
    ...(timings ? [line('seconds', fieldsOf(timings))] : []),
    line('done', `settled ${settled ? 'yes' : 'no'}, announced ${announced ? 'yes' : 'no'}`),
  ]
}

/** Whether an image is where it should be; one that is gone without a reason is lost. */
function whereabouts({ in_store, deleted, expires_at }: NonNullable<JobReport['images']>[number]): string {
  if (deleted) return 'deleted by its owner'
  if (expires_at * 1000 <= Date.now()) return `expired at ${iso(expires_at * 1000)}`
  return in_store ? 'stored' : 'NOT IN THE STORE'
}

/** The report as text. */
export function formatReport({ id, account, job, ledger, events = [], images = [], webhooks = [] }: JobReport): string {
  const money = ledger
    ? `${ledger.state}, ${dollars(ledger.charged)} of ${dollars(ledger.amount)}${ledger.settled ? ` at ${iso(ledger.settled)}` : ''}`
    : 'no entry'
  return [
    `${id} of account ${account}: ${job?.state ?? 'reserved, but never created; its reservation is released by itself'}`,
    ...(job ? jobLines(job, events) : []),
    line('ledger', money),
    ...images.map((each) =>
      line('image', `${each.key}, ${each.bytes} bytes, ${whereabouts(each)}, ${each.receipt ? '' : 'no '}receipt`),
    ),
    ...(webhooks.length > 0 ? webhooks.flatMap(deliveryLines) : [line('webhook', 'none')]),
  ].join('\n')
}

type Target = { url: string; token: string; account?: string }

/** Asks the worker. Throws with what it says. */
export async function readReport(id: string, { url, token, account }: Target): Promise<JobReport> {
  const address = new URL(`/v1/operator/jobs/${encodeURIComponent(id)}`, url)
  if (account !== undefined) address.searchParams.set('account', account)
  const response = await fetch(address, { headers: { authorization: `Bearer ${token}` } }).catch((cause) => {
    throw new Error(`no worker answers at ${url}; name it with --url`, { cause })
  })
  const reply: unknown = await response.json().catch(() => ({}))
  if (!response.ok) throw new Error((reply as { detail?: string }).detail ?? `${url} answers ${response.status}`)
  return reply as JobReport
}

if (import.meta.main) {
  await new Command('job')
    .description('What happened to a job.')
    .argument('<id>', 'job_…, or the name that the account gave it')
    .option('--account <name>', 'whose job it is; needed for a name, and for a job that was never created')
    .addOption(new Option('--url <address>', 'the worker').env('OCTET_URL').default('http://127.0.0.1:8787'))
    .addOption(new Option('--token <token>', 'its operator token').env('OCTET_ADMIN_TOKEN').makeOptionMandatory())
    .action(async (id, target) => console.log(formatReport(await readReport(id, target))))
    .parseAsync()
    .catch((error: Error) => {
      console.error(`job: ${error.message}`)
      process.exitCode = 1
    })
}
