// The attacks, each with its own rate. They require at most an ordinary account, and some not even that.
import type { Random } from '../../campaign/random.ts'

/** Shared state of the attacks. `jobs` holds the ids of their jobs, newest last. */
export type Arms = {
  url: string
  /** Key of an account that submits more jobs than can be processed. */
  flood: string
  /** Key and endpoint ids of an account whose webhook receivers accept connections but never respond. */
  hooks: { key: string; endpoints: readonly string[] }
  /** A revoked key. */
  revoked: string
  /** Request body of a job with the same cost as an honest one. */
  job: object
  jobs: string[]
  random: Random
  /** Aborts requests in flight. */
  over: AbortSignal
}
/** Runs the attack once and returns the response status. */
type Attack = (arms: Arms) => Promise<number>

const PATIENCE_MS = 30_000
/** How long event streams are held open. */
const HOLD_MS = 60_000
const REMEMBERED_JOBS = 200
const HUGE_FIELDS = 1_100_000
const MANY_FIELDS = 16_000
const SPACES = 16_000

const fieldsOf = (count: number) => `{${Array.from({ length: count }, (_, index) => `"field${index}":1`).join()}}`
let huge: string | undefined
let many: string | undefined

type Sent = {
  method?: string
  key: string
  body?: string | object
  headers?: Record<string, string>
  patienceMs?: number
}

async function send(
  { url, over }: Arms,
  address: string,
  { method, key, body, headers, patienceMs = PATIENCE_MS }: Sent,
) {
  const text = typeof body === 'object' ? JSON.stringify(body) : body
  const response = await fetch(`${url}${address}`, {
    method: method ?? (text === undefined ? 'GET' : 'POST'),
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers },
    body: text ?? null,
    signal: AbortSignal.any([over, AbortSignal.timeout(patienceMs)]),
  })
  return { status: response.status, text: await response.text() }
}

async function submit(arms: Arms, key = arms.flood): Promise<{ status: number; id: string | null }> {
  const { job, jobs } = arms
  const { status, text } = await send(arms, '/v1/jobs', { key, body: job })
  const id = status < 300 ? (JSON.parse(text) as { id: string }).id : null
  if (id !== null) jobs.push(id)
  if (jobs.length > REMEMBERED_JOBS) jobs.shift()
  return { status, id }
}

const knownJob = ({ jobs }: Arms) => jobs.at(-1) ?? 'job_00000000000000000000000000000000'
const statusOf = async (reply: Promise<{ status: number }>) => (await reply).status

/** Headers that could cause catastrophic regex backtracking, with a route that parses each. `{job}` is replaced by a job id. */
const SLOW_HEADERS: readonly [address: string, headers: Record<string, string>][] = [
  ['/v1/jobs/{job}', { prefer: `wait${' '.repeat(SPACES)}x` }],
  ['/v1/jobs/{job}', { prefer: `wait=1${' ;'.repeat(SPACES / 2)}x` }],
  ['/v1/jobs/{job}', { authorization: `Bearer${' '.repeat(SPACES)}x` }],
  ['/v1/jobs/{job}/events', { 'last-event-id': `${'1 '.repeat(SPACES / 2)}x` }],
  ['/v1/results/{job}/0', { range: `bytes=${' '.repeat(SPACES)}x` }],
  ['/v1/quote', { 'content-type': `application/json${' '.repeat(SPACES)}x` }],
  ['/v1/jobs', { 'idempotency-key': `"${' '.repeat(SPACES)}` }],
]

/**
 * Requests per second of each attack; the flood makes up the rest of the target load. `jobs`: creates a job with the same cost as an honest
 * one.
 */
const RATED: Record<string, { perSecond: number; jobs?: boolean; act: Attack }> = {
  'huge bodies of a revoked key': {
    perSecond: 0.1,
    act: (arms) => {
      huge ??= fieldsOf(HUGE_FIELDS)
      return statusOf(send(arms, '/v1/tokens', { key: arms.revoked, body: huge }))
    },
  },
  'unknown fields': {
    perSecond: 1,
    act: (arms) => {
      many ??= fieldsOf(MANY_FIELDS)
      const key = arms.random.chance(0.5) ? arms.revoked : arms.flood
      return statusOf(send(arms, '/v1/images/generations', { key, body: many }))
    },
  },
  'slow headers': {
    perSecond: 0.5,
    act: (arms) => {
      const [address, headers] = SLOW_HEADERS[arms.random.between(0, SLOW_HEADERS.length - 1)]!
      const body = address.includes('{job}') ? {} : { body: arms.job }
      return statusOf(send(arms, address.replace('{job}', knownJob(arms)), { key: arms.flood, headers, ...body }))
    },
  },
  'hanging webhooks': {
    perSecond: 0.2,
    jobs: true,
    act: async (arms) => (await submit(arms, arms.hooks.key)).status,
  },
  replays: {
    perSecond: 0.5,
    act: (arms) => {
      const { key, endpoints } = arms.hooks
      const endpoint = endpoints[arms.random.between(0, endpoints.length - 1)]
      const body = { since: new Date(Date.now() - 3_600_000).toISOString(), only: 'all' }
      return statusOf(send(arms, `/v1/webhooks/${endpoint}/replay`, { key, body }))
    },
  },
  lists: { perSecond: 10, act: (arms) => statusOf(send(arms, '/v1/jobs?limit=100', { key: arms.flood })) },
  quotes: { perSecond: 10, act: (arms) => statusOf(send(arms, '/v1/quote', { key: arms.flood, body: arms.job })) },
  polls: { perSecond: 20, act: (arms) => statusOf(send(arms, `/v1/jobs/${knownJob(arms)}`, { key: arms.flood })) },
  'hoarded event streams': {
    perSecond: 2,
    act: async (arms) => {
      const headers = { authorization: `Bearer ${arms.flood}` }
      const signal = AbortSignal.any([arms.over, AbortSignal.timeout(HOLD_MS)])
      const response = await fetch(`${arms.url}/v1/jobs/${knownJob(arms)}/events`, { headers, signal })
      await response.text().catch(() => {})
      return response.status
    },
  },
  cancels: {
    perSecond: 0.2,
    jobs: true,
    act: async (arms) => {
      const { status, id } = await submit(arms)
      if (id === null) return status
      return statusOf(send(arms, `/v1/jobs/${id}`, { method: 'DELETE', key: arms.flood }))
    },
  },
  'two bodies under one name': {
    perSecond: 0.2,
    jobs: true,
    act: async (arms) => {
      const address = `/v1/jobs/name-${arms.random.between(0, 2 ** 32)}`
      const put = (steps: number) =>
        send(arms, address, { method: 'PUT', key: arms.flood, body: { ...arms.job, steps } })
      const [cheap, dear] = await Promise.all([put(1), put(5)])
      return Math.max(cheap.status, dear.status)
    },
  },
  leaving: {
    perSecond: 0.2,
    jobs: true,
    act: (arms) => {
      const body = { ...arms.job, on_disconnect: 'cancel' }
      return statusOf(send(arms, '/v1/images/generations', { key: arms.flood, body, patienceMs: 50 }))
    },
  },
  'forged keys': {
    perSecond: 20,
    act: (arms) => {
      const key = `oct_flood_${arms.random.between(0, 1e12).toString(16)}_${'0'.repeat(32)}_${'0'.repeat(16)}`
      return statusOf(send(arms, '/v1/jobs', { key }))
    },
  },
}

/** Submits jobs of one account, whatever the response. */
const flood: Attack = async (arms) => (await submit(arms)).status

export const ATTACKS: string[] = ['flood', ...Object.keys(RATED)]

/** The named attacks with their rates. The flood raises their total to `jobsPerSecond`. */
export function planAttacks(names: readonly string[], jobsPerSecond: number): [string, number, Attack][] {
  const rated = Object.entries(RATED).filter(([name]) => names.includes(name))
  const jobs = rated.reduce((total, [, { jobs, perSecond }]) => total + (jobs ? perSecond : 0), 0)
  const planned = rated.map(([name, { perSecond, act }]): [string, number, Attack] => [name, perSecond, act])
  const rest = jobsPerSecond - jobs
  return names.includes('flood') && rest > 0 ? [['flood', rest, flood], ...planned] : planned
}
