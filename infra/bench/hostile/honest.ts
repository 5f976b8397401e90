// Honest callers: small customers who occasionally request an image and download it.
import { isFinal } from '../../../edge/jobs/record.ts'
import type { Random } from '../../command/random.ts'
import { type Job, send } from '../../system/client.ts'
import type { Customer } from '../../system/system.ts'
import { percentile } from '../statistics.ts'
import { runOpenLoop } from './open-loop.ts'

/** Latency assigned to a failed request, so that a fast rejection does not improve the statistics. */
export const TIMEOUT_MS = 60_000

/** Latency of each request in milliseconds, from its scheduled time to the last byte of its image, and the reasons for failures. */
export type Experience = { times: number[]; failures: Map<string, number> }
export type Phase = { sent: number; failed: number; p50: number; p95: number; p99: number }
type Worker = { url: string; customers: readonly Customer[] }

/** Five steps on the GPU function, which take `requestMs` milliseconds. */
export const STEPS = 5
const BODY = { route: 'full', steps: STEPS, n: 1 }

async function read<T>(url: string, key: string, signal: AbortSignal, body?: object): Promise<T> {
  const { status, text } = await send(url, key, { headers: { prefer: 'wait=30' }, signal, ...(body && { body }) })
  if (status < 300) return JSON.parse(text) as T
  throw new Error(`${status} ${/"code":"(\w+)"/.exec(text)?.[1] ?? ''}`.trim())
}

async function fetchImage(url: string | undefined, signal: AbortSignal): Promise<void> {
  if (url === undefined) throw new Error('no image')
  const response = await fetch(url, { signal })
  const { byteLength } = await response.arrayBuffer()
  if (!response.ok || byteLength === 0) throw new Error(`image ${response.status}`)
}

/** Submits and waits in a single request, as OpenAI's clients do. */
async function generate(url: string, key: string, prompt: string, signal: AbortSignal): Promise<void> {
  const body = { ...BODY, prompt }
  const { data } = await read<{ data: { url: string }[] }>(`${url}/v1/images/generations`, key, signal, body)
  await fetchImage(data[0]?.url, signal)
}

/** Submits a job and polls it until it ends. */
async function submitAndPoll(url: string, key: string, prompt: string, signal: AbortSignal): Promise<void> {
  let job = await read<Job>(`${url}/v1/jobs`, key, signal, { ...BODY, prompt })
  while (!isFinal(job)) job = await read<Job>(`${url}/v1/jobs/${job.id}`, key, signal)
  if (job.state !== 'succeeded') throw new Error(`${job.state} ${job.error?.code ?? ''}`.trim())
  await fetchImage(job.images[0]?.url, signal)
}

const reasonOf = (error: unknown) => {
  const { name, message, cause } = error as Error & { cause?: { code?: string } }
  if (name === 'TimeoutError') return `no image within ${TIMEOUT_MS / 1000} s`
  return cause?.code ?? message
}

/** Sends one request of a random customer and records its latency or failure. */
async function sendRequest({ url, customers }: Worker, random: Random, due: number, experience: Experience) {
  const { key } = customers[random.between(0, customers.length - 1)]!
  const send = random.chance(0.7) ? generate : submitAndPoll
  try {
    await send(url, key, `honest ${random.between(0, 2 ** 32)}`, AbortSignal.timeout(TIMEOUT_MS))
    experience.times.push(performance.now() - due)
  } catch (error) {
    const reason = reasonOf(error)
    experience.times.push(TIMEOUT_MS)
    experience.failures.set(reason, (experience.failures.get(reason) ?? 0) + 1)
  }
}

/** Sends open-loop requests until the signal aborts. Resolves when all have ended. */
export async function callHonestly(
  worker: Worker,
  perSecond: number,
  random: Random,
  signal: AbortSignal,
): Promise<Experience> {
  const experience: Experience = { times: [], failures: new Map() }
  await runOpenLoop({ perSecond, random, signal }, (due) => sendRequest(worker, random, due, experience))
  return experience
}

export function summarize({ times, failures }: Experience): Phase {
  const computePercentile = (part: number) => percentile(times, part)
  const failed = [...failures.values()].reduce((total, count) => total + count, 0)
  return {
    sent: times.length,
    failed,
    p50: computePercentile(0.5),
    p95: computePercentile(0.95),
    p99: computePercentile(0.99),
  }
}

/** Measures the maximum throughput in images per second with closed-loop callers. */
export async function measureCapacity(worker: Worker, random: Random, seconds: number, callers = 8): Promise<number> {
  const experience: Experience = { times: [], failures: new Map() }
  const end = performance.now() + seconds * 1000
  const start = performance.now()
  const runCaller = async () => {
    while (performance.now() < end) await sendRequest(worker, random, performance.now(), experience)
  }
  await Promise.all(Array.from({ length: callers }, runCaller))
  if (experience.failures.size > 0) throw new Error(`without load: ${[...experience.failures.keys()].join(', ')}`)
  return experience.times.length / ((performance.now() - start) / 1000)
}
