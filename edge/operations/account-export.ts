// Exports all data of an account as JSON lines. Pages are read on demand as the client consumes the response, so that neither the worker
// nor a Durable Object buffers more than one page.

import { type Credit, EXPORT_SECTIONS, type ExportedJob, type ExportSection } from '../accounts/export.ts'
import type { KeyInfo } from '../accounts/keys/key-info.ts'
import type { UsageRow } from '../accounts/ledger.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { toUnixSeconds } from '../platform/units.ts'
import { viewOf } from '../requests/view.ts'
import { createResultUrl } from '../results/results.ts'

/** Durable Object calls per response, below the worker's limit of ten thousand. The remainder follows in the next response. */
const MAX_CALLS = 5000
/** Jobs read concurrently. */
const CONCURRENT_JOBS = 10
/** Lifetime of the image links in an export. */
const LINK_SECONDS = 24 * 3600

const SECTIONS = [...EXPORT_SECTIONS, 'webhooks'] as const
type Section = (typeof SECTIONS)[number]
/** The start of a response: a page of a section. A null cursor is the start of the section. */
export type Position = { section: Section; cursor: string | null }
export const START: Position = { section: 'keys', cursor: null }

type Line = { type: string } & Record<string, unknown>
type Page = { lines: Line[]; next: string | null }
type Source = { env: Env; account: string; origin: string }

/** Parses `<section>:<cursor>`, the `after` value of an earlier response. Returns null if it is malformed. */
export function parsePosition(text: string): Position | null {
  const [, name, cursor] = /^([a-z]{1,10}):([0-9a-z -]{0,60})$/.exec(text) ?? []
  const section = SECTIONS.find((each) => each === name)
  return section && cursor !== undefined ? { section, cursor: cursor === '' ? null : cursor } : null
}

const formatPosition = ({ section, cursor }: Position) => `${section}:${cursor ?? ''}`

/** Builds the line of a job: its request, its current view if its object still has it, and its ledger entry. */
async function readJobLine({ env, origin }: Source, row: ExportedJob): Promise<Line> {
  const { job: id, name, key_id, tier, amount, charged, state, reserved, settled, spec } = row
  const record = await objectOf(env.JOB, id).view()
  const view = record && (await viewOf({ env, origin, keyId: null }, record))
  const images = record?.state === 'succeeded' ? record.images : []
  const linked = images.map(async ({ key, ...facts }) => ({
    ...facts,
    url: await createResultUrl(env, origin, id, { ...facts, key }, LINK_SECONDS),
  }))
  return {
    ...{ type: 'job', id, name, key_id },
    ledger: {
      ...{ state, tier, reserved_microdollars: amount, charged_microdollars: charged },
      ...{ reserved: toUnixSeconds(reserved), settled: toUnixSeconds(settled) },
    },
    request: (record ?? spec)?.request ?? null,
    job: view && { ...view, images: await Promise.all(linked) },
  }
}

async function readJobLines(source: Source, rows: ExportedJob[]): Promise<Line[]> {
  const lines: Line[] = []
  for (let k = 0; k < rows.length; k += CONCURRENT_JOBS) {
    const chunk = rows.slice(k, k + CONCURRENT_JOBS).map((row) => readJobLine(source, row))
    lines.push(...(await Promise.all(chunk)))
  }
  return lines
}

const toKeyLine = ({ created, expires, revoked, ...key }: KeyInfo): Line => ({
  ...{ type: 'key', ...key },
  ...{ created: toUnixSeconds(created), expires: toUnixSeconds(expires), revoked: toUnixSeconds(revoked) },
})
const toCreditLine = ({ amount, created, ...credit }: Credit): Line => ({
  ...{ type: 'credit', ...credit, amount_microdollars: amount, created: toUnixSeconds(created) },
})
const toUsageLine = ({ amount, ...usage }: UsageRow): Line => ({ type: 'usage', ...usage, price_microdollars: amount })

async function readRowPage(source: Source, section: ExportSection, cursor: string | null): Promise<Page> {
  const { rows, next } = await objectOf(source.env.ACCOUNT, source.account).exportRows(section, cursor)
  switch (section) {
    case 'keys':
      return { lines: (rows as KeyInfo[]).map(toKeyLine), next }
    case 'credits':
      return { lines: (rows as Credit[]).map(toCreditLine), next }
    case 'usage':
      return { lines: (rows as UsageRow[]).map(toUsageLine), next }
    case 'jobs':
      return { lines: await readJobLines(source, rows as ExportedJob[]), next }
  }
}

/** Returns a page of endpoints without their signing keys, and events with their deliveries. */
async function readWebhookPage({ env, account }: Source, cursor: string | null): Promise<Page> {
  const page = await objectOf(env.WEBHOOK, account).exportAll(cursor === null ? null : Number(cursor))
  const endpoints = page.endpoints.map(({ id, url, events, description, disabled, created }) => ({
    ...{ type: 'webhook_endpoint', id, url, events, description, disabled, created: toUnixSeconds(created) },
  }))
  const events = page.events.map(({ id, type, created, data, deliveries }) => ({
    ...{ type: 'webhook_event', id, event_type: type, created: toUnixSeconds(created), data },
    deliveries: deliveries.map(({ endpoint, url, state, attempts }) => ({
      ...{ endpoint, url, state },
      attempts: attempts.map(({ at, ...attempt }) => ({ at: toUnixSeconds(at), ...attempt })),
    })),
  }))
  return { lines: [...endpoints, ...events], next: page.next === null ? null : String(page.next) }
}

const readPage = (source: Source, { section, cursor }: Position): Promise<Page> =>
  section === 'webhooks' ? readWebhookPage(source, cursor) : readRowPage(source, section, cursor)

/**
 * Yields the lines from a position on. The last line is `{"type":"end"}`, or `{"type":"continued","after":…}` if another request is needed;
 * an export without either is incomplete.
 */
export async function* exportLines(source: Source, start: Position, maxCalls = MAX_CALLS): AsyncGenerator<Line> {
  let calls = 0
  for (let at = start; ; ) {
    const { lines, next } = await readPage(source, at)
    yield* lines
    calls += 1 + (at.section === 'jobs' ? lines.length : 0)
    const following = SECTIONS[SECTIONS.indexOf(at.section) + 1]
    if (next === null && !following) return yield { type: 'end' }
    at = next === null ? { section: following!, cursor: null } : { section: at.section, cursor: next }
    if (calls >= maxCalls) return yield { type: 'continued', after: formatPosition(at) }
  }
}

/** Returns the lines as a stream with backpressure: a line is produced only when the reader requests it. */
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
