// Consistency checks from the callers' point of view, once the system is idle. Each function returns the violations.
import { createHash } from 'node:crypto'
import { type Account, describeAccount, type Target } from '../../operator/keys.ts'
import type { Customer, Experience } from '../callers.ts'
import { ask, type Job, persistent } from '../client.ts'
import { bytesOf } from '../programs/modelless-engine.ts'
import type { Receiver } from '../receiver.ts'

const STATES = ['succeeded', 'failed', 'canceled']
const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex')
const sum = (jobs: readonly Job[]) => jobs.reduce((total, { price_microdollars }) => total + price_microdollars, 0)
const byId = (jobs: readonly Job[]) => new Map(jobs.map((job) => [job.id, job]))

/** Lists all jobs of an account. */
export async function jobsOf(url: string, { key }: Customer): Promise<Job[]> {
  const jobs: Job[] = []
  for (let after = ''; ; ) {
    type Page = { data: Job[]; has_more: boolean; next_after: string | null }
    const page = await ask<Page>(persistent, `${url}/v1/jobs?limit=100${after && `&after=${after}`}`, key)
    jobs.push(...page.data)
    if (!page.has_more) return jobs
    after = page.next_after!
  }
}

/** Every job has ended and was captured once, at its own price, and nothing is reserved. */
export async function moneyProblems(target: Target, account: string, jobs: readonly Job[]): Promise<string[]> {
  const money = (await describeAccount(target, account)) as Account & { credited_microdollars: number }
  const { balance_microdollars: balance, captured_microdollars: captured, reserved_microdollars: reserved } = money
  return [
    ...jobs.filter(({ state }) => !STATES.includes(state)).map(({ id, state }) => `${id} is ${state} for ever`),
    ...(money.open_jobs > 0 || reserved > 0
      ? [`${account} has ${money.open_jobs} open jobs, ${reserved} reserved`]
      : []),
    ...(captured === sum(jobs) ? [] : [`${account} captured ${captured}; its jobs cost ${sum(jobs)}`]),
    ...(balance === money.credited_microdollars - captured ? [] : [`${account} has a balance of ${balance}`]),
  ]
}

const LOOKS_AT_A_TIME = 8

async function imagesOfJob({ id, images }: Job): Promise<string[]> {
  if (images.length === 0) return [`${id} succeeded without an image`]
  const problems: string[] = []
  for (const { url, seed, sha256: told } of images) {
    const response = await fetch(url)
    const found = sha256(new Uint8Array(await response.arrayBuffer()))
    if (response.status !== 200) problems.push(`an image of ${id} is lost: ${url} answers ${response.status}`)
    else if (found !== told || found !== sha256(bytesOf(seed))) problems.push(`an image of ${id} is another`)
  }
  return problems
}

/** Every image of a succeeded job is available and matches its seed. */
export async function imageProblems(jobs: readonly Job[]): Promise<string[]> {
  const left = jobs.filter(({ state }) => state === 'succeeded')
  const problems: string[] = []
  const look = async () => {
    for (let job = left.pop(); job; job = left.pop()) problems.push(...(await imagesOfJob(job)))
  }
  await Promise.all(Array.from({ length: LOOKS_AT_A_TIME }, look))
  return problems
}

/** Every job that a caller received exists, and every job that a caller saw succeed has succeeded. */
export function experienceProblems(experiences: readonly Experience[], jobs: readonly Job[]): string[] {
  const known = byId(jobs)
  return experiences.flatMap(({ way, job, saw, complaint }) => [
    ...(complaint ? [complaint] : []),
    ...(job && !known.has(job) ? [`a caller who ${way} was told of ${job}, which is nowhere`] : []),
    ...(job && saw && known.get(job)?.state !== saw ? [`${job} was ${saw} and is ${known.get(job)?.state}`] : []),
  ])
}

/** Each job has one accepted event, with one id and the job's state, and there are no other events. */
export function webhookProblems(receiver: Receiver, account: string, jobs: readonly Job[]): string[] {
  const told = receiver.toldTo(account)
  const known = byId(jobs)
  const strangers = [...told.keys()].filter((id) => !known.has(id))
  const wrong = jobs.flatMap(({ id, state }) => {
    const event = told.get(id)
    if (!event?.taken) return [`${account} never took the event of ${id}`]
    const same = event.ids.size === 1 && event.states.size === 1 && event.states.has(state)
    return same ? [] : [`${account} was told ${[...event.ids, ...event.states].join(', ')} of ${id}, which is ${state}`]
  })
  return [...strangers.map((id) => `${account} was told of ${id}, which is nowhere`), ...wrong]
}

/** Counts of jobs by state, money, images and webhooks. */
export function countsOf(jobs: readonly Job[], receiver: Receiver): Record<string, number> {
  const ended = STATES.map((state) => [state, jobs.filter((job) => job.state === state).length])
  const { attempts, taken } = receiver.counts()
  return {
    ...{ jobs: jobs.length, ...Object.fromEntries(ended), images: jobs.flatMap(({ images }) => images).length },
    ...{ 'micro-dollars captured': sum(jobs), 'webhook attempts': attempts, 'webhooks taken': taken },
  }
}
