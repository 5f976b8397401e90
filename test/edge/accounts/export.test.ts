// Account export: all stored data of the account as JSON lines, without secrets.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { eventOf } from '../../../edge/jobs/announcement.ts'
import { exportLines, parsePosition, START } from '../../../edge/operations/account-export.ts'
import { accountOf, admit, queryRows } from '../support/admissions.ts'
import {
  type Caller,
  fetchWorker,
  generate,
  generatedOf,
  newCaller,
  ORIGIN,
  problemOf,
  send,
} from '../support/client.ts'
import { createImageBytes, fakeGpu, works } from '../support/fake-gpu.ts'
import { createFinalJob, waitForEnd } from '../support/jobs.ts'
import { addEndpoint, newManager, outboxOf, waitForDeliveries } from '../support/manager.ts'
import { configure, operator } from '../support/operator.ts'
import { fakeReceiver, RECEIVER } from '../support/receiver.ts'

let owner: Caller
beforeEach(async () => {
  owner = await newManager()
  fakeGpu(works)
  fakeReceiver()
})
afterEach(() => vi.restoreAllMocks())

type Line = { type: string; id: string } & Record<string, unknown>
const parseLines = (text: string): Line[] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
const fetchExport = (query = '', path = '/v1/account/export', headers = owner.headers) =>
  fetchWorker(`${path}${query}`, { headers })
const parseExport = async (query = '') => parseLines(await (await fetchExport(query)).text())
const filterByType = (lines: Line[], type: string) => lines.filter((line) => line.type === type)

describe('GET /v1/account/export', () => {
  test('contains settings, keys, credits, usage, jobs with prompts and images, and webhooks, then an end line', async ({
    expect,
  }) => {
    const endpoint = await addEndpoint(owner)
    await configure(owner.account, { retention_days: 90 })
    await accountOf(owner).credit('invoice-1', 5000, 'thanks')
    const { octet } = await generatedOf(await generate(owner, { prompt: 'a secret wish', seed: 3, n: 2 }))
    await waitForEnd({ id: octet.job })
    await waitForDeliveries(owner)
    await admit(owner, { job: `job_${'1'.repeat(32)}`, name: 'waiting' })

    const reply = await fetchExport()
    expect(Object.fromEntries(reply.headers)).toMatchObject({
      'content-type': 'application/x-ndjson',
      'content-disposition': `attachment; filename="${owner.account}.jsonl"`,
      'cache-control': 'no-store',
    })
    const text = await reply.text()
    const lines = parseLines(text)
    expect(lines.map(({ type }) => type)).toEqual([
      ...['account', 'key', 'credit', 'usage', 'job', 'job', 'webhook_endpoint', 'webhook_event', 'end'],
    ])
    const captured = octet.price_microdollars
    expect(lines[0]).toMatchObject({
      ...{ account: owner.account, retention_days: 90, balance_microdollars: 5000 - captured, open_jobs: 1 },
      limits: { requests_per_minute: 600 },
    })
    expect(lines[1]).toMatchObject({ id: owner.keyId, scopes: ['generate', 'read', 'admin'], revoked: null })
    expect(lines[2]).toMatchObject({ id: 'invoice-1', amount_microdollars: 5000, note: 'thanks' })
    expect(lines[3]).toMatchObject({ key_id: owner.keyId, tier: 'fp8', jobs: 1, price_microdollars: captured })
    const [made, waiting] = filterByType(lines, 'job')
    expect(made).toMatchObject({
      ...{ id: octet.job, key_id: owner.keyId, request: { prompt: 'a secret wish', seed: 3, count: 2 } },
      ledger: { state: 'captured', charged_microdollars: captured },
      job: { state: 'succeeded', images: [{ seed: 3 }, { seed: 4 }] },
    })
    const { images } = made!.job as { images: { url: string }[] }
    for (const [k, { url }] of images.entries()) {
      const response = await fetchWorker(url)
      expect(new Uint8Array(await response.arrayBuffer())).toEqual(createImageBytes(3 + k))
    }
    expect(waiting).toMatchObject({
      name: 'waiting',
      request: { prompt: 'a cat' },
      ledger: { state: 'reserved' },
      job: null,
    })
    expect(filterByType(lines, 'webhook_endpoint')).toMatchObject([{ id: endpoint.id, url: `${RECEIVER}/in` }])
    expect(filterByType(lines, 'webhook_event')).toMatchObject([
      {
        event_type: 'job.succeeded',
        data: { id: octet.job },
        deliveries: [{ endpoint: endpoint.id, state: 'delivered' }],
      },
    ])
  })

  test('contains no secrets and no data of another account', async ({ expect }) => {
    const [endpoint, other] = [await addEndpoint(owner), await newManager()]
    await generate(other, { prompt: 'of somebody else' })
    await generate(owner, { prompt: 'a cat', webhook: `${RECEIVER}/mine` })
    await waitForDeliveries(owner)
    const text = await (await fetchExport()).text()
    const [{ secret_hash: hash } = {}] = await queryRows(owner, 'SELECT secret_hash FROM keys')
    const hidden = [
      endpoint.secret,
      'whsec_',
      String(hash),
      owner.key,
      'of somebody else',
      other.account,
      'results/30d',
    ]
    expect(hidden.filter((each) => text.includes(each))).toEqual([])
    expect(text).toContain(endpoint.id)
  })

  test('requires the operator token or a key with scope admin', async ({ expect }) => {
    const reader = await newCaller({ scopes: ['generate', 'read'] })
    const { token } = (await (
      await send('POST', '/v1/tokens', await newCaller(), { budget_microdollars: 1 })
    ).json()) as { token: string }
    const fetchStatus = async (path: string, headers: Record<string, string>) =>
      (await fetchExport('', path, headers)).status
    expect(await fetchStatus('/v1/account/export', reader.headers)).toBe(403)
    expect(await fetchStatus('/v1/account/export', { authorization: `Bearer ${token}` })).toBe(403)
    expect(await fetchStatus('/v1/account/export', {})).toBe(401)
    expect(await fetchStatus(`/v1/accounts/${owner.account}/export`, owner.headers)).toBe(401)
    const reply = await fetchExport('', `/v1/accounts/${owner.account}/export`, operator)
    expect(parseLines(await reply.text()).map(({ type }) => type)).toEqual(['account', 'key', 'end'])
  })

  test.for(['nonsense', 'jobs', 'jobs:x;y', 'secrets:1', `jobs:${'1'.repeat(99)}`])(
    'after=%s is rejected',
    async (after, { expect }) => {
      const refused = await fetchExport(`?after=${encodeURIComponent(after)}`)
      expect([refused.status, (await problemOf(refused)).error.param]).toEqual([400, 'after'])
    },
  )
})

/** Inserts credits, usage and ledger rows; with enough jobs, each kind spans several pages. Returns the number of usage rows. */
const fill = (jobs: number) =>
  runInDurableObject(accountOf(owner), (_, { storage }) => {
    const listNumbers = (max: number) =>
      `WITH RECURSIVE counter (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counter WHERE n < ${max - 1})`
    storage.sql.exec(`${listNumbers(1000)} INSERT INTO credits SELECT 'credit-' || n, n, '', n FROM counter`)
    storage.sql.exec(
      `${listNumbers(1201)} INSERT INTO usage
       SELECT date(n / 6 * 86400, 'unixepoch'), iif(n % 2, '', 'k'), n % 3, n, n FROM counter WHERE true
       ON CONFLICT DO NOTHING`,
    )
    storage.sql.exec(
      `${listNumbers(jobs)}
       INSERT INTO ledger (job, key_id, meters, tier, amount, state, reserved, settled, fingerprint, digest)
       SELECT 'job_' || n, 'k', '[]', 'fp8', 5, 'released', n, n, 'f', 'd' FROM counter`,
    )
    return storage.sql.exec<{ n: number }>('SELECT count(*) AS n FROM usage').one().n
  })

describe('a large export', () => {
  test('contains each row exactly once across consecutive parts', async ({ expect }) => {
    const usage = await fill(230)
    const source = { env, account: owner.account, origin: ORIGIN }
    const lines: Line[] = []
    let parts = 0
    for (let position: typeof START | null = START; position !== null; parts++) {
      let last: Line | undefined
      for await (const line of exportLines(source, position, 2)) {
        last = line as Line
        lines.push(last)
      }
      position = last!.type === 'end' ? null : parsePosition(last!.after as string)!
    }
    expect(parts).toBeGreaterThan(3)
    const countDistinct = (type: string, name: (line: Line) => unknown) =>
      new Set(filterByType(lines, type).map(name)).size
    expect([filterByType(lines, 'credit').length, countDistinct('credit', ({ id }) => id)]).toEqual([1000, 1000])
    const formatDay = ({ day, key_id, tier }: Line) => `${day} ${key_id} ${tier}`
    expect([filterByType(lines, 'usage').length, countDistinct('usage', formatDay)]).toEqual([usage, usage])
    expect([filterByType(lines, 'job').length, countDistinct('job', ({ id }) => id)]).toEqual([230, 230])
    expect(filterByType(lines, 'end')).toHaveLength(1)
  })

  test('contains each webhook event once, even for events published in the same millisecond', async ({ expect }) => {
    await addEndpoint(owner)
    const events = Array.from({ length: 230 }, () => eventOf(createFinalJob(owner)))
    const now = Date.now()
    const clock = vi.spyOn(Date, 'now').mockReturnValue(now)
    for (const event of events) await outboxOf(owner).publish(event, null)
    clock.mockRestore()
    await waitForDeliveries(owner)
    const exportedEvents = filterByType(await parseExport('?after=webhooks:'), 'webhook_event').map(({ id }) => id)
    expect(exportedEvents.toSorted()).toEqual(events.map(({ id }) => id).toSorted())
  })

  test('continues after the position in ?after', async ({ expect }) => {
    await fill(3)
    const lines = await parseExport('?after=jobs:')
    expect(lines.map(({ type }) => type)).toEqual(['job', 'job', 'job', 'end'])
    expect((await parseExport('?after=jobs:2')).map(({ type }) => type)).toEqual(['job', 'end'])
  })

  test('reads from the account only as fast as the caller reads the response', async ({ expect }) => {
    await fill(230)
    const pages = vi.spyOn(AccountDO.prototype, 'exportRows')
    const reader = (await fetchExport()).body!.getReader()
    await reader.read()
    // Only the first pages (keys and credits) have been read.
    expect(pages.mock.calls.length).toBeLessThan(4)
    await reader.cancel()
  })
})
