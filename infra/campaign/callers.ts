// Simulated API callers with different behaviors: wait, disconnect, retry, cancel, follow events, or change the request.
import { setTimeout as sleep } from 'node:timers/promises'
import { isFinal } from '../../edge/jobs/record.ts'
import type { Random } from '../command/random.ts'
import { type Client, callWorker, Fault, type Job } from '../system/client.ts'
import { FAULTY_PROMPT, SLOW_PROMPT } from '../system/programs/modelless-engine.ts'
import type { Customer } from '../system/system.ts'

export type Caller = { client: Client; url: string; key: string; name: string; body: object; delayMs: number }
/** What a caller observed: its job, the job's final state, and a complaint, if any. */
type Observation = { job?: string | undefined; saw?: 'succeeded'; complaint?: string | false | undefined }
export type Experience = Observation & { behavior: string }

/** Long enough for the detection of runs that continue after the end of their job. */
const SLOW = { steps: 100, n: 4 }
const EXPENSIVE = { steps: 12, n: 2 }

const post = ({ client, url, key, name, body }: Caller) =>
  callWorker<Job>(client, `${url}/v1/jobs`, key, { body, headers: { 'idempotency-key': name } })

const requireOneJob = (jobs: readonly Job[]): Observation => {
  const ids = [...new Set(jobs.map(({ id }) => id))]
  return { job: ids[0], complaint: ids.length > 1 && `one request became ${ids.join(' and ')}` }
}

/** Requests an image but disconnects before the job ends. */
const leave = async (
  { client, url, key, body, delayMs }: Caller,
  onDisconnect: 'continue' | 'cancel',
): Promise<Observation> => {
  const sending = { body: { ...body, on_disconnect: onDisconnect }, signal: AbortSignal.timeout(delayMs) }
  await client.send(`${url}/v1/images/generations`, key, sending).catch(rethrowFault)
  return {}
}

function rethrowFault(error: unknown): void {
  if (error instanceof Fault) throw error
}

const cancel = async (caller: Caller): Promise<Observation> => {
  const { client, url, key, delayMs } = caller
  const { id } = await post(caller)
  await sleep(delayMs)
  return requireOneJob([await callWorker<Job>(client, `${url}/v1/jobs/${id}`, key, { method: 'DELETE' })])
}

/** A request whose run takes longer than the timeout for abandoned runs. */
const slowDown = (caller: Caller): Caller => ({
  ...caller,
  body: { ...caller.body, ...SLOW, prompt: `${SLOW_PROMPT} ${caller.name}` },
})

/** `unavailable`: the job got no GPU, so its name may be reused. */
type Claim = { outcome: 'won' | 'lost' | 'unavailable'; job?: string; complaint?: string }

/** Retries a PUT of a named job until the response shows whether the name is assigned to this body or to another one. */
export async function claim({ client, url, key, name }: Caller, body: object & { steps: number }): Promise<Claim> {
  const { status, text } = await client.sendReliably(`${url}/v1/jobs/${name}`, key, { method: 'PUT', body })
  if (text.includes('"idempotency_mismatch"')) return { outcome: 'lost' }
  if (status >= 300) return { outcome: 'lost', complaint: `PUT ${name} returned ${status}: ${text.slice(0, 200)}` }
  const { id: job, error, steps } = JSON.parse(text) as Job
  if (error?.code === 'gpu_unavailable') return { outcome: 'unavailable', job }
  if (steps === body.steps) return { outcome: 'won', job }
  return { outcome: 'won', job, complaint: `a PUT with ${body.steps} steps returned ${job} with ${steps} steps` }
}

/** Judges two different PUTs under one name: exactly one of them must own it. */
export function judgeClaims(name: string, claims: readonly Claim[]): Observation {
  const winners = claims.filter(({ outcome }) => outcome === 'won').length
  const free = claims.some(({ outcome }) => outcome === 'unavailable')
  const wrong = winners > 1 || (winners === 0 && !free)
  const own = claims.find(({ complaint }) => complaint !== undefined)?.complaint
  const job = claims.find((each) => each.outcome === 'won')?.job
  return { job, complaint: own ?? (wrong && `${winners} of the two bodies own ${name}; expected exactly one`) }
}

/** A cheap and a far more expensive request with the same prompt. */
export function createCheapAndExpensive(prompt: string) {
  return [
    { prompt, route: 'full', width: 16, height: 16, steps: 1, n: 1 },
    { prompt, route: 'full', width: 64, height: 64, ...EXPENSIVE },
  ] as const
}

const BEHAVIORS = {
  submits: async (caller: Caller) => ({ job: (await post(caller)).id }),
  async waits({ client, url, key, name, body }: Caller) {
    const sending = { body, headers: { 'idempotency-key': name } }
    const { status, text } = await client.sendReliably(`${url}/v1/images/generations`, key, sending)
    return status === 200 ? { job: (JSON.parse(text) as { octet: { job: string } }).octet.job, saw: 'succeeded' } : {}
  },
  async polls(caller: Caller) {
    const { client, url, key } = caller
    const { id } = await post(caller)
    for (;;) {
      const job = await callWorker<Job>(client, `${url}/v1/jobs/${id}`, key, { headers: { prefer: 'wait=1' } })
      await callWorker<{ data: Job[] }>(client, `${url}/v1/jobs?limit=5`, key)
      if (isFinal(job)) return { job: id, ...(job.state === 'succeeded' && { saw: 'succeeded' as const }) }
    }
  },
  async names({ client, url, key, name, body }: Caller) {
    const put = () => callWorker<Job>(client, `${url}/v1/jobs/${name}`, key, { method: 'PUT', body })
    return requireOneJob([await put(), await put()])
  },
  async 'changes its mind'(caller: Caller) {
    const { client, url, key, name, delayMs } = caller
    const [cheap, expensive] = createCheapAndExpensive(`picture of ${name}`)
    const signal = AbortSignal.timeout(delayMs)
    await client.send(`${url}/v1/jobs/${name}`, key, { method: 'PUT', body: cheap, signal }).catch(rethrowFault)
    return judgeClaims(name, [await claim(caller, expensive), await claim(caller, cheap)])
  },
  doubles: async (caller: Caller) => requireOneJob(await Promise.all([post(caller), post(caller)])),
  cancels: cancel,
  'cancels a slow one': (caller: Caller) => cancel(slowDown(caller)),
  async follows(caller: Caller) {
    const { id } = await post(caller)
    const ids = await caller.client.follow(`${caller.url}/v1/jobs/${id}/events`, caller.key)
    const exact = ids.every((each, index) => each === index + 1)
    return { job: id, complaint: !exact && `the events of ${id} arrived as ${ids.join(' ')}` }
  },
  leaves: (caller: Caller) => leave(caller, 'continue'),
  'leaves and cancels': (caller: Caller) => leave(caller, 'cancel'),
  'leaves a slow one': (caller: Caller) => leave(slowDown(caller), 'cancel'),
  async 'sends once'({ client, url, key, body }: Caller) {
    await client.send(`${url}/v1/jobs`, key, { body }).catch(rethrowFault)
    return {}
  },
  'meets a broken engine': async (caller: Caller) => ({
    job: (await post({ ...caller, body: { ...caller.body, prompt: FAULTY_PROMPT } })).id,
  }),
} satisfies Record<string, (caller: Caller) => Promise<Observation>>
type Behavior = keyof typeof BEHAVIORS

/** Relative frequencies. */
const SHARES: Record<Behavior, number> = {
  ...{ submits: 26, waits: 20, polls: 6, names: 12, 'changes its mind': 8, doubles: 8, cancels: 8, follows: 8 },
  ...{ leaves: 5, 'leaves and cancels': 3, 'sends once': 6, 'meets a broken engine': 3 },
  ...{ 'cancels a slow one': 1, 'leaves a slow one': 1 },
}

export type Call = { client: Client; url: string; customer: Customer; number: number; random: Random }

/** Runs caller `number` from start to finish. A Fault of a one-shot client becomes its complaint. */
export async function call({ client, url, customer, number, random }: Call): Promise<Experience> {
  const behavior = random.pick(SHARES)
  const body = {
    ...{ prompt: `picture ${number}`, route: 'full', steps: random.between(2, 6), n: random.between(1, 2) },
    ...(random.chance(0.3) && { seed: random.between(0, 2 ** 32 - 1) }),
  }
  const delayMs = random.between(0, 400)
  const caller = { client, url, key: customer.key, name: `order-${number}`, body, delayMs }
  try {
    return { behavior, ...(await BEHAVIORS[behavior](caller)) }
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    return { behavior, complaint: `a caller who ${behavior}: ${error.message}` }
  }
}
