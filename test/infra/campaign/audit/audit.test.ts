// The audits of the crash campaign, on records with one deliberate inconsistency per test.
import { expect, test } from 'vitest'
import { findExperienceProblems, findWebhookProblems } from '../../../../infra/campaign/audit/audit.ts'
import { findBookProblems, findReservationProblems } from '../../../../infra/campaign/audit/books.ts'
import type { Books, JobRow } from '../../../../infra/campaign/audit/records.ts'
import { runCounts, runProblems } from '../../../../infra/campaign/audit/runs.ts'
import { judgeClaims } from '../../../../infra/campaign/callers.ts'
import type { Events, Receiver } from '../../../../infra/campaign/receiver.ts'
import type { Job } from '../../../../infra/system/client.ts'
import { parseRuns, type Run } from '../../../../infra/system/programs/gpu-runs.ts'

const END = 1_000_000
const GRACE_MS = 10_000

const record = (id: string, change: Partial<JobRow> = {}): JobRow => ({
  ...{ id, state: 'succeeded', price: 201, fingerprint: `print of ${id}`, finished: END },
  request: { prompt: `picture of ${id}`, seed: 7 },
  ...change,
})
const createListedJob = (id: string, price = 201): Job => ({
  ...{ id, state: 'succeeded', steps: 1, error: null, price_microdollars: price, images: [] },
})
const createRow = (job: string, change = {}) => ({
  ...{ job, state: 'captured', amount: 201, charged: 201, fingerprint: `print of ${job}` },
  ...change,
})
const createBooks = (change: Partial<Books> = {}): Books => ({
  ledger: [createRow('a'), createRow('b'), createRow('never created', { state: 'released', charged: 0 })],
  usage: [createRow('a'), createRow('b')],
  jobs: [record('a'), record('b')],
  ...change,
})
const jobs = [createListedJob('a'), createListedJob('b')]

test('ledgers and reservations consistent with the jobs cause no reports', () => {
  expect(findBookProblems(createBooks(), jobs)).toEqual([])
  expect(findReservationProblems(createBooks(), jobs)).toEqual([])
})

test.each([
  ['a different price from its row', { jobs: [record('a', { price: 70_979 }), record('b')] }, /a has a price of 70979/],
  [
    'a different fingerprint from its row',
    { jobs: [record('a', { fingerprint: 'x' }), record('b')] },
    /a .* fingerprints/,
  ],
  ['no row', { ledger: [createRow('b')] }, /a has no row/],
  [
    'a row without a fingerprint',
    { ledger: [createRow('a', { fingerprint: null }), createRow('b')] },
    /a .* fingerprints/,
  ],
  ['an unreadable record', { jobs: [record('b')] }, /record of a could not be read/],
])('a job with %s is reported', (_, change, problem) => {
  expect(findReservationProblems(createBooks(change), jobs)).toEqual([expect.stringMatching(problem)])
})

test('a job missing from the list of jobs is checked by its record', () => {
  expect(findReservationProblems(createBooks({ jobs: [record('a'), record('b'), record('c')] }), jobs)).toEqual([
    'c has no row in the ledger',
  ])
})

test.each([
  ['charged another price', { ledger: [createRow('a', { charged: 44 }), createRow('b')] }, /a cost 201/],
  ['not exported', { usage: [createRow('b')] }, /a cost 201/],
  ['exported twice', { usage: [createRow('a'), createRow('a'), createRow('b')] }, /a cost 201/],
  ['exported in another state', { usage: [createRow('a', { state: 'released' }), createRow('b')] }, /a cost 201/],
  [
    'charged without a job',
    { ledger: [createRow('a'), createRow('b'), createRow('c')] },
    /charges c, which does not exist/,
  ],
])('a ledger row that is %s is reported', (_, change, problem) => {
  expect(findBookProblems(createBooks(change), jobs)).toEqual([expect.stringMatching(problem)])
})

test.each([
  ['a complaint', { job: 'a', complaint: 'a 500' }, /^a 500$/],
  ['a job that does not exist', { job: 'x' }, /received x, which does not exist/],
  ['a success for a failed job', { job: 'b', saw: 'succeeded' as const }, /b was succeeded and is now failed/],
])('a caller with %s is reported', (_, observed, problem) => {
  const all = [createListedJob('a'), { ...createListedJob('b'), state: 'failed' as const }]
  expect(findExperienceProblems([{ behavior: 'waits', job: 'a', saw: 'succeeded' }], all)).toEqual([])
  expect(findExperienceProblems([{ behavior: 'waits', ...observed }], all)).toEqual([expect.stringMatching(problem)])
})

const createEvents = (change: Partial<Events> = {}): Events => ({
  ...{ ids: new Set(['evt_a']), states: new Set(['succeeded']), attempts: 1, accepted: 1 },
  ...change,
})
const receiverOf = (jobs: Record<string, Events>) =>
  ({ eventsOf: () => new Map(Object.entries(jobs)) }) as unknown as Receiver

test.each([
  ['missing', {}, /accepted no event of a/],
  ['never accepted', { a: createEvents({ accepted: 0 }) }, /accepted no event of a/],
  ['sent under two ids', { a: createEvents({ ids: new Set(['evt_a', 'evt_b']) }) }, /received evt_a, evt_b/],
  ['sent with another state', { a: createEvents({ states: new Set(['failed']) }) }, /which is succeeded/],
  ['sent for an unknown job', { a: createEvents(), x: createEvents() }, /received an event of x/],
])('a webhook that is %s is reported', (_, received, problem) => {
  expect(findWebhookProblems(receiverOf({ a: createEvents() }), 'acme', [createListedJob('a')])).toEqual([])
  const problems = findWebhookProblems(receiverOf(received as Record<string, Events>), 'acme', [createListedJob('a')])
  expect(problems).toEqual([expect.stringMatching(problem)])
})

const run = (id: string, change: Partial<Run> = {}): Run => ({
  ...{ gpu: 'a', prompt: `picture of ${id}`, seed: 7, start: END - 500, last: END - 100, steps: 4 },
  ...change,
})

test('runs that end by the end of their jobs, or within the grace period, cause no reports', () => {
  const late = run('a', { gpu: 'b', last: END + GRACE_MS })
  const delayed = run('b', { gpu: 'b', start: END + 2 * GRACE_MS, last: END + 2 * GRACE_MS + 50 })
  const runs = [run('a'), run('b'), late, delayed]
  expect(runProblems(runs, [record('a'), record('b', { state: 'failed' })], GRACE_MS)).toEqual([])
  expect(runCounts(runs, [record('a'), record('b')])).toMatchObject({
    'GPU runs': 4,
    'GPU steps': 16,
    'GPU runs that outlived their job': 2,
  })
})

test.each([
  [
    'continues after the cancellation of its job',
    [run('a', { last: END + GRACE_MS + 1 })],
    'canceled',
    /10\.0 s after a had/,
  ],
  ['has no job', [run('a'), run('x')], 'canceled', /"picture of x".* no job/],
  ['has a different seed from its job', [run('a', { seed: 8 })], 'canceled', /\(seed 8\).* no job/],
  ['is missing', [], 'succeeded', /a succeeded, but no GPU function ran it/],
  [
    'overlaps with another one',
    [run('a', { start: END - 40_000 }), run('a', { gpu: 'b', start: END - 30_000 })],
    'succeeded',
    /two runs of a overlapped for 29\.9 s/,
  ],
])('a run that %s is reported', (_, runs, state, problem) => {
  expect(runProblems(runs, [record('a', { state })], GRACE_MS)).toEqual([expect.stringMatching(problem)])
})

test('a run of an unfinished job is reported', () => {
  const open = record('a', { state: 'running', finished: null })
  expect(runProblems([run('a')], [open], GRACE_MS)).toEqual([expect.stringContaining('for a, which has not ended')])
})

test('the log of a killed process is read up to its last complete line', () => {
  const lines = [
    { gpu: 'a', run: '1.0', prompt: 'a', seed: 1, at: 10 },
    { gpu: 'a', run: '1.0', prompt: 'a', seed: 1, at: 20 },
    { gpu: 'a', run: '1.1', prompt: 'b', seed: 2, at: 25 },
  ]
  const text = `${lines.map((line) => JSON.stringify(line)).join('\n')}\n{"gpu":"a","run":"1.1","pro`
  expect(parseRuns(text)).toEqual([
    { gpu: 'a', prompt: 'a', seed: 1, start: 10, last: 20, steps: 1 },
    { gpu: 'a', prompt: 'b', seed: 2, start: 25, last: 25, steps: 0 },
  ])
})

test.each([
  ['one body', [{ outcome: 'lost' }, { outcome: 'won', job: 'a' }], false],
  ['both bodies', [{ outcome: 'won' }, { outcome: 'won' }], '2 of the two bodies own x; expected exactly one'],
  ['no body', [{ outcome: 'lost' }, { outcome: 'lost' }], '0 of the two bodies own x; expected exactly one'],
  ['no body, as no GPU was found', [{ outcome: 'unavailable' }, { outcome: 'lost' }], false],
  ['another body', [{ outcome: 'won', complaint: 'wrong' }, { outcome: 'lost' }], 'wrong'],
] as const)('a job name claimed by %s', (_, claims, complaint) => {
  expect(judgeClaims('x', claims).complaint).toBe(complaint)
})
