// The attacks, each with its own rate. They require an ordinary account at most; some require none.

import type { Random } from '../../command/random.ts'
import { type SendOptions, send as sendOnce } from '../../system/client.ts'

/** Shared state of the attacks. `jobs` holds the ids of their jobs, newest last. */
export type AttackContext = {
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
  end: AbortSignal
}
/** Runs the attack once and returns its response. */
type Attack = (context: AttackContext) => Promise<{ status: number }>

const TIMEOUT_MS = 30_000
/** The time that event streams are held open. */
const HOLD_MS = 60_000
const REMEMBERED_JOBS = 200
const HUGE_FIELDS = 1_100_000
const MANY_FIELDS = 16_000
const SPACES = 16_000

const fieldsOf = (count: number) => `{${Array.from({ length: count }, (_, index) => `"field${index}":1`).join()}}`
let huge: string | undefined
let many: string | undefined

type AttackRequest = Omit<SendOptions, 'signal'> & { key: string; timeoutMs?: number }

function send(
  { url, end }: AttackContext,
  address: string,
  { key, timeoutMs = TIMEOUT_MS, ...sending }: AttackRequest,
) {
  const signal = AbortSignal.any([end, AbortSignal.timeout(timeoutMs)])
  return sendOnce(`${url}${address}`, key, { ...sending, signal })
}

async function submit(context: AttackContext, key = context.flood): Promise<{ status: number; id: string | null }> {
  const { job, jobs } = context
  const { status, text } = await send(context, '/v1/jobs', { key, body: job })
  const id = status < 300 ? (JSON.parse(text) as { id: string }).id : null
  if (id !== null) jobs.push(id)
  if (jobs.length > REMEMBERED_JOBS) jobs.shift()
  return { status, id }
}

const pickJob = ({ jobs }: AttackContext) => jobs.at(-1) ?? 'job_00000000000000000000000000000000'

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
const RATED: Record<string, { perSecond: number; jobs?: boolean; run: Attack }> = {
  'huge bodies of a revoked key': {
    perSecond: 0.1,
    run: (context) => {
      huge ??= fieldsOf(HUGE_FIELDS)
      return send(context, '/v1/tokens', { key: context.revoked, body: huge })
    },
  },
  'unknown fields': {
    perSecond: 1,
    run: (context) => {
      many ??= fieldsOf(MANY_FIELDS)
      const key = context.random.chance(0.5) ? context.revoked : context.flood
      return send(context, '/v1/images/generations', { key, body: many })
    },
  },
  'slow headers': {
    perSecond: 0.5,
    run: (context) => {
      const [address, headers] = SLOW_HEADERS[context.random.between(0, SLOW_HEADERS.length - 1)]!
      const body = address.includes('{job}') ? {} : { body: context.job }
      return send(context, address.replace('{job}', pickJob(context)), { key: context.flood, headers, ...body })
    },
  },
  'hanging webhooks': {
    perSecond: 0.2,
    jobs: true,
    run: (context) => submit(context, context.hooks.key),
  },
  replays: {
    perSecond: 0.5,
    run: (context) => {
      const { key, endpoints } = context.hooks
      const endpoint = endpoints[context.random.between(0, endpoints.length - 1)]
      const body = { since: new Date(Date.now() - 3_600_000).toISOString(), only: 'all' }
      return send(context, `/v1/webhooks/${endpoint}/replay`, { key, body })
    },
  },
  lists: { perSecond: 10, run: (context) => send(context, '/v1/jobs?limit=100', { key: context.flood }) },
  quotes: {
    perSecond: 10,
    run: (context) => send(context, '/v1/quote', { key: context.flood, body: context.job }),
  },
  polls: {
    perSecond: 20,
    run: (context) => send(context, `/v1/jobs/${pickJob(context)}`, { key: context.flood }),
  },
  'hoarded event streams': {
    perSecond: 2,
    run: async (context) => {
      const headers = { authorization: `Bearer ${context.flood}` }
      const signal = AbortSignal.any([context.end, AbortSignal.timeout(HOLD_MS)])
      const response = await fetch(`${context.url}/v1/jobs/${pickJob(context)}/events`, { headers, signal })
      await response.text().catch(() => {})
      return response
    },
  },
  cancels: {
    perSecond: 0.2,
    jobs: true,
    run: async (context) => {
      const { status, id } = await submit(context)
      return id === null ? { status } : send(context, `/v1/jobs/${id}`, { method: 'DELETE', key: context.flood })
    },
  },
  'two bodies under one name': {
    perSecond: 0.2,
    jobs: true,
    run: async (context) => {
      const address = `/v1/jobs/name-${context.random.between(0, 2 ** 32)}`
      const put = (steps: number) =>
        send(context, address, { method: 'PUT', key: context.flood, body: { ...context.job, steps } })
      const [cheap, expensive] = await Promise.all([put(1), put(5)])
      return { status: Math.max(cheap.status, expensive.status) }
    },
  },
  leaving: {
    perSecond: 0.2,
    jobs: true,
    run: (context) => {
      const body = { ...context.job, on_disconnect: 'cancel' }
      return send(context, '/v1/images/generations', { key: context.flood, body, timeoutMs: 50 })
    },
  },
  'forged keys': {
    perSecond: 20,
    run: (context) => {
      const key = `oct_flood_${context.random.between(0, 1e12).toString(16)}_${'0'.repeat(32)}_${'0'.repeat(16)}`
      return send(context, '/v1/jobs', { key })
    },
  },
}

/** Submits jobs of one account, regardless of the responses. */
const submitFlood: Attack = (context) => submit(context)

export const ATTACKS: string[] = ['flood', ...Object.keys(RATED)]

/** The named attacks with their rates. The flood raises their total to `jobsPerSecond`. */
export function planAttacks(names: readonly string[], jobsPerSecond: number): [string, number, Attack][] {
  const rated = Object.entries(RATED).filter(([name]) => names.includes(name))
  const jobs = rated.reduce((total, [, { jobs, perSecond }]) => total + (jobs ? perSecond : 0), 0)
  const planned = rated.map(([name, { perSecond, run }]): [string, number, Attack] => [name, perSecond, run])
  const rest = jobsPerSecond - jobs
  return names.includes('flood') && rest > 0 ? [['flood', rest, submitFlood], ...planned] : planned
}
