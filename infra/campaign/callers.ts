// Callers of the API, each with a way of their own: they wait, leave, repeat themselves, cancel, follow.
import { setTimeout as sleep } from 'node:timers/promises'
import { ask, follow, insist, type Job, send } from './client.ts'
import { FAULTY_PROMPT } from './modelless-engine.ts'
import type { Random } from './random.ts'

/** An account with a key of it. */
export type Customer = { account: string; key: string }
type Caller = { url: string; key: string; name: string; body: object; patienceMs: number }
/** What a caller was told: its job, the state that it saw the job end in, and what it has to complain of. */
type Told = { job?: string | undefined; saw?: 'succeeded'; complaint?: string | false }
export type Experience = Told & { way: Way }

const post = ({ url, key, name, body }: Caller) =>
  ask<Job>(`${url}/v1/jobs`, key, { method: 'POST', body, idempotencyKey: name })

const same = (jobs: readonly Job[]): Told => {
  const ids = [...new Set(jobs.map(({ id }) => id))]
  return { job: ids[0], complaint: ids.length > 1 && `one request became ${ids.join(' and ')}` }
}

/** Waits for an image, but not for long. What became of it, the caller does not learn. */
const leave = async ({ url, key, body, patienceMs }: Caller, onDisconnect: 'continue' | 'cancel'): Promise<Told> => {
  const asked = {
    method: 'POST',
    body: { ...body, on_disconnect: onDisconnect },
    signal: AbortSignal.timeout(patienceMs),
  }
  await send(`${url}/v1/images/generations`, key, asked).catch(() => {})
  return {}
}

const WAYS = {
  submits: async (caller: Caller) => ({ job: (await post(caller)).id }),
  async waits({ url, key, name, body }: Caller) {
    const asked = { method: 'POST', body, idempotencyKey: name }
    const { status, text } = await insist(`${url}/v1/images/generations`, key, asked)
    return status === 200 ? { job: (JSON.parse(text) as { octet: { job: string } }).octet.job, saw: 'succeeded' } : {}
  },
  async names({ url, key, name, body }: Caller) {
    const put = () => ask<Job>(`${url}/v1/jobs/${name}`, key, { method: 'PUT', body })
    return same([await put(), await put()])
  },
  doubles: async (caller: Caller) => same(await Promise.all([post(caller), post(caller)])),
  async cancels(caller: Caller) {
    const { id } = await post(caller)
    await sleep(caller.patienceMs)
    return same([await ask<Job>(`${caller.url}/v1/jobs/${id}`, caller.key, { method: 'DELETE' })])
  },
  async follows(caller: Caller) {
    const { id } = await post(caller)
    const ids = await follow(`${caller.url}/v1/jobs/${id}/events`, caller.key)
    const exact = ids.every((each, index) => each === index + 1)
    return { job: id, complaint: !exact && `the events of ${id} came as ${ids.join(' ')}` }
  },
  leaves: (caller: Caller) => leave(caller, 'continue'),
  'leaves and cancels': (caller: Caller) => leave(caller, 'cancel'),
  async 'sends once'({ url, key, body }: Caller) {
    await send(`${url}/v1/jobs`, key, { method: 'POST', body }).catch(() => {})
    return {}
  },
  'meets a broken engine': async (caller: Caller) => ({
    job: (await post({ ...caller, body: { ...caller.body, prompt: FAULTY_PROMPT } })).id,
  }),
} satisfies Record<string, (caller: Caller) => Promise<Told>>
type Way = keyof typeof WAYS

/** How often each comes, relative to the others. */
const SHARES: Record<Way, number> = {
  ...{ submits: 30, waits: 20, names: 14, doubles: 8, cancels: 8, follows: 8, leaves: 5 },
  ...{ 'leaves and cancels': 3, 'sends once': 6, 'meets a broken engine': 3 },
}

/** Caller `number`, from its request to where it leaves. */
export async function call(url: string, { key }: Customer, number: number, random: Random): Promise<Experience> {
  const way = random.pick(SHARES)
  const body = {
    ...{ prompt: `picture ${number}`, route: 'full', steps: random.between(2, 6), n: random.between(1, 2) },
    ...(random.chance(0.3) && { seed: random.between(0, 2 ** 32 - 1) }),
  }
  const caller = { url, key, name: `order-${number}`, body, patienceMs: random.between(0, 400) }
  return { way, ...(await WAYS[way](caller)) }
}
