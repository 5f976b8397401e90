// Everything that is stored of an account, as JSON lines. It is read page by page while the caller reads the reply, so that neither the
// worker nor an object holds more than a page of it.
import { type Credit, EXPORT_SECTIONS, type ExportedJob, type ExportSection } from './account-export.ts'
import type { KeyInfo } from './account-keys.ts'
import type { UsageRow } from './account-ledger.ts'
import type { Env } from './env.ts'
import { viewOf } from './job-view.ts'
import { objectOf } from './objects.ts'
import { resultUrl } from './results.ts'

/** Calls to objects of one reply; a worker may make ten thousand. What is left after these is in the next reply. */
const MOST_CALLS = 5000
/** Jobs that are read at once. */
const CONCURRENT_JOBS = 10
/** How long links to images in an export hold. */
const LINK_SECONDS = 24 * 3600

const SECTIONS = [...EXPORT_SECTIONS, 'webhooks'] as const
type Section = (typeof SECTIONS)[number]
/** Where a reply begins: a page of a section; the cursor null is the section's start. */
export type Position = { section: Section; cursor: string | null }
export const START: Position = { section: 'keys', cursor: null }

type Line = { type: string } & Record<string, unknown>
type Page = { lines: Line[]; next: string | null }
type Source = { env: Env; account: string; origin: string }

/** Reads `<section>:<cursor>`, the `after` of an earlier reply; null when it is malformed. */
export function parsePosition(text: string): Position | null {
  const [, section, cursor] = /^([a-z]{1,10}):([0-9a-z -]{0,60})$/.exec(text) ?? []
  const known = SECTIONS.find((each) => each === section)
  return known && cursor !== undefined ? { section: known, cursor: cursor === '' ? null : cursor } : null
}

const formatPosition = ({ section, cursor }: Position) => `${section}:${cursor ?? ''}`
const unixSeconds = (milliseconds: number | null) => (milliseconds === null ? null : Math.floor(milliseconds / 1000))

/** A job with what was asked for, as long as its object has it, and the reservation in the ledger. */
async function jobLine({ env, origin }: Source, row: ExportedJob): Promise<Line> {
  const { job: id, name, key_id, tier, amount, charged, state, reserved, settled, spec } = row
  const record = await objectOf(env.JOB, id).view()
  const view = record && (await viewOf({ env, origin, keyId: null }, record))
  const images = record?.state === 'succeeded' ? record.images : []
  const linked = images.map(async ({ key, ...facts }) => ({
    ...facts,
    url: await resultUrl(env, origin, id, { ...facts, key }, LINK_SECONDS),
  }))
  return {
    ...{ type: 'job', id, name, key_id },
    ledger: {
      ...{ state, tier, reserved_microdollars: amount, charged_microdollars: charged },
      ...{ reserved: unixSeconds(reserved), settled: unixSeconds(settled) },
    },
    request: (record ?? spec)?.request ?? null,
    job: view && { ...view, images: await Promise.all(linked) },
  }
}

async function jobLines(source: Source, rows: ExportedJob[]): Promise<Line[]> {
  const lines: Line[] = []
  for (let k = 0; k < rows.length; k += CONCURRENT_JOBS) {
    const chunk = rows.slice(k, k + CONCURRENT_JOBS).map((row) => jobLine(source, row))
    lines.push(...(await Promise.all(chunk)))
  }
  return lines
}

const keyLine = ({ created, expires, revoked, ...key }: KeyInfo): Line => ({
  ...{ type: 'key', ...key },
  ...{ created: unixSeconds(created), expires: unixSeconds(expires), revoked: unixSeconds(revoked) },
})
const creditLine = ({ amount, created, ...credit }: Credit): Line => ({
  ...{ type: 'credit', ...credit, amount_microdollars: amount, created: unixSeconds(created) },
})
const usageLine = ({ amount, ...usage }: UsageRow): Line => ({ type: 'usage', ...usage, price_microdollars: amount })

async function rowPage(source: Source, section: ExportSection, cursor: string | null): Promise<Page> {
  const { rows, next } = await objectOf(source.env.ACCOUNT, source.account).exportRows(section, cursor)
  switch (section) {
    case 'keys':
      return { lines: (rows as KeyInfo[]).map(keyLine), next }
    case 'credits':
      return { lines: (rows as Credit[]).map(creditLine), next }
    case 'usage':
      return { lines: (rows as UsageRow[]).map(usageLine), next }
    case 'jobs':
      return { lines: await jobLines(source, rows as ExportedJob[]), next }
  }
}

/** Endpoints without their signing keys, and events with their deliveries. */
async function webhookPage({ env, account }: Source, cursor: string | null): Promise<Page> {
  const page = await objectOf(env.WEBHOOK, account).exportAll(cursor === null ? null : Number(cursor))
  const endpoints = page.endpoints.map(({ id, url, events, description, disabled, created }) => ({
    ...{ type: 'webhook_endpoint', id, url, events, description, disabled, created: unixSeconds(created) },
  }))
  const events = page.events.map(({ id, type, created, data, deliveries }) => ({
    ...{ type: 'webhook_event', id, event_type: type, created: unixSeconds(created), data },
    deliveries: deliveries.map(({ endpoint, url, state, attempts }) => ({
      ...{ endpoint, url, state },
      attempts: attempts.map(({ at, ...attempt }) => ({ at: unixSeconds(at), ...attempt })),
    })),
  }))
  return { lines: [...endpoints, ...events], next: page.next === null ? null : String(page.next) }
}

const pageAt = (source: Source, { section, cursor }: Position): Promise<Page> =>
  section === 'webhooks' ? webhookPage(source, cursor) : rowPage(source, section, cursor)

/**
 * The lines from a position on. The last one is `{"type":"end"}`, or `{"type":"continued","after":…}` where another reply has the rest; an
 * export without either is incomplete.
 */
export async function* exportLines(source: Source, start: Position, mostCalls = MOST_CALLS): AsyncGenerator<Line> {
  let calls = 0
  for (let at = start; ; ) {
    const { lines, next } = await pageAt(source, at)
    yield* lines
    calls += 1 + (at.section === 'jobs' ? lines.length : 0)
    const following = SECTIONS[SECTIONS.indexOf(at.section) + 1]
    if (next === null && !following) return yield { type: 'end' }
    at = next === null ? { section: following!, cursor: null } : { section: at.section, cursor: next }
    if (calls >= mostCalls) return yield { type: 'continued', after: formatPosition(at) }
  }
}

/** Lines as a stream that reads the next one when its reader is ready for it. */
export function streamLines(lines: AsyncGenerator<Line>): ReadableStream<Uint8Array> {
  const utf8 = new TextEncoder()
  return new ReadableStream(
    {
      async pull(controller) {
        const { value, done } = await lines.next()
        if (done) controller.close()
        else controller.enqueue(utf8.encode(`${JSON.stringify(value)}\n`))
      },
      async cancel() {
        await lines.return(undefined)
      },
    },
    { highWaterMark: 0 },
  )
}
