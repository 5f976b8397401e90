// Consistency checks from the callers' point of view, once the system is idle. Each function returns the violations.
import { createHash } from 'node:crypto'
import { isFinal } from '../../../edge/jobs/record.ts'
import { type Account, describeAccount, type Target } from '../../operator/keys.ts'
import { callWorker, type Job, persistent } from '../../system/client.ts'
import { bytesOf } from '../../system/programs/modelless-engine.ts'
import type { Customer } from '../../system/system.ts'
import type { Experience } from '../callers.ts'
import type { Receiver } from '../receiver.ts'

const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex')
const sumPrices = (jobs: readonly Job[]) =>
  jobs.reduce((total, { price_microdollars }) => total + price_microdollars, 0)
const indexById = (jobs: readonly Job[]) => new Map(jobs.map((job) => [job.id, job]))

/** Lists all jobs of an account. */
export async function jobsOf(url: string, { key }: Customer): Promise<Job[]> {
  const jobs: Job[] = []
  for (let after = ''; ; ) {
    type Page = { data: Job[]; has_more: boolean; next_after: string | null }
    const page = await callWorker<Page>(persistent, `${url}/v1/jobs?limit=100${after && `&after=${after}`}`, key)
    jobs.push(...page.data)
    if (!page.has_more) return jobs
    after = page.next_after!
  }
}

/** Every job has ended and was captured once, at its own price, and nothing is reserved. */
export async function findMoneyProblems(target: Target, account: string, jobs: readonly Job[]): Promise<string[]> {
  const money = (await describeAccount(target, account)) as Account & { credited_microdollars: number }
  const { balance_microdollars: balance, captured_microdollars: captured, reserved_microdollars: reserved } = money
  return [
    ...jobs.filter((job) => !isFinal(job)).map(({ id, state }) => `${id} remains ${state}`),
    ...(money.open_jobs > 0 || reserved > 0
      ? [`${account} has ${money.open_jobs} open jobs, ${reserved} reserved`]
      : []),
    ...(captured === sumPrices(jobs) ? [] : [`${account} captured ${captured}; its jobs cost ${sumPrices(jobs)}`]),
    ...(balance === money.credited_microdollars - captured ? [] : [`${account} has a balance of ${balance}`]),
  ]
}

const CONCURRENT_DOWNLOADS = 8

async function imagesOfJob({ id, images }: Job): Promise<string[]> {
  if (images.length === 0) return [`${id} succeeded without an image`]
  const problems: string[] = []
  for (const { url, seed, sha256: expected } of images) {
    const response = await fetch(url)
    const found = sha256(new Uint8Array(await response.arrayBuffer()))
    if (response.status !== 200) problems.push(`an image of ${id} is missing: ${url} returned ${response.status}`)
    else if (found !== expected || found !== sha256(bytesOf(seed)))
      problems.push(`an image of ${id} is not that of its seed`)
  }
  return problems
}

/** Every image of a succeeded job is available and matches its seed. */
export async function findImageProblems(jobs: readonly Job[]): Promise<string[]> {
  const left = jobs.filter(({ state }) => state === 'succeeded')
  const problems: string[] = []
  const download = async () => {
    for (let job = left.pop(); job; job = left.pop()) problems.push(...(await imagesOfJob(job)))
  }
  await Promise.all(Array.from({ length: CONCURRENT_DOWNLOADS }, download))
  return problems
}

/** Every job that a caller received exists, and every job that a caller saw succeed has succeeded. */
export function findExperienceProblems(experiences: readonly Experience[], jobs: readonly Job[]): string[] {
  const known = indexById(jobs)
  return experiences.flatMap(({ behavior, job, saw, complaint }) => [
    ...(complaint ? [complaint] : []),
    ...(job && !known.has(job) ? [`a caller who ${behavior} received ${job}, which does not exist`] : []),
    ...(job && saw && known.get(job)?.state !== saw ? [`${job} was ${saw} and is now ${known.get(job)?.state}`] : []),
  ])
}

/** Each job has one accepted event, with one id and the job's state, and there are no other events. */
export function findWebhookProblems(receiver: Receiver, account: string, jobs: readonly Job[]): string[] {
  const events = receiver.eventsOf(account)
  const known = indexById(jobs)
  const unknown = [...events.keys()].filter((id) => !known.has(id))
  const wrong = jobs.flatMap(({ id, state }) => {
    const event = events.get(id)
    if (!event?.accepted) return [`${account} accepted no event of ${id}`]
    const same = event.ids.size === 1 && event.states.size === 1 && event.states.has(state)
    return same
      ? []
      : [`${account} received ${[...event.ids, ...event.states].join(', ')} for ${id}, which is ${state}`]
  })
  return [...unknown.map((id) => `${account} received an event of ${id}, which does not exist`), ...wrong]
}

/** Counts of jobs by state, money, images and webhooks. */
export function countsOf(jobs: readonly Job[], receiver: Receiver): Record<string, number> {
  const states = [...Map.groupBy(jobs, ({ state }) => state)].map(([state, own]) => [state, own.length])
  const { attempts, accepted } = receiver.counts()
  return {
    ...{ jobs: jobs.length, ...Object.fromEntries(states), images: jobs.flatMap(({ images }) => images).length },
    ...{ 'micro-dollars captured': sumPrices(jobs), 'webhook attempts': attempts, 'webhooks accepted': accepted },
  }
}
