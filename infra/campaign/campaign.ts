// The crash campaign: many callers, a worker and a GPU function that are killed again and again, a network between them that fails, and
// a receiver of webhooks that fails every second time. Then all is left in peace, and everything must add up.
import { setTimeout as sleep } from 'node:timers/promises'
import { describeAccount } from '../keys.ts'
import * as audit from './audit.ts'
import { call, type Experience } from './callers.ts'
import type { Job } from './client.ts'
import { randomOf } from './random.ts'
import { makeTrouble } from './trouble.ts'
import { openWorld, type World } from './world.ts'

export type CampaignOptions = {
  /** How many callers call; nearly every one of them makes a job. */
  jobs: number
  /** Chooses every fault, every caller and what it asks. When a fault meets which job is up to the machine. */
  seed: number
  onProgress?: (line: string) => void
}
/** `problems` is empty when everything adds up; where it is not, `directory` holds what the processes wrote. */
export type Outcome = { counts: Record<string, number>; problems: string[]; directory: string | null }

const CALLERS_AT_A_TIME = 12
const ANSWER_MS = 120_000
/** How long all may take to come to rest, and as much again for each thousand jobs. */
const REST_MS = 60_000
/** Settled rows wait 10 s in their account and 5 s in the queue; a worker that is stopped sooner exports nothing. */
const PEACE_MS = 20_000

/** What becomes of a caller whose job does not end: the campaign must. */
async function forsaken(number: number): Promise<Experience> {
  await sleep(ANSWER_MS, null, { ref: false })
  return { way: 'waits', complaint: `caller ${number} had no end of it within ${ANSWER_MS / 1000} s` }
}

async function makeCalls(
  { target, customers }: World,
  { jobs, seed, onProgress }: CampaignOptions,
): Promise<Experience[]> {
  const experiences: Experience[] = []
  let next = 0
  const caller = async () => {
    while (next < jobs) {
      const number = next++
      const random = randomOf(seed, `caller ${number}`)
      const customer = customers[random.between(0, customers.length - 1)]!
      experiences.push(await Promise.race([call(target.url, customer, number, random), forsaken(number)]))
      if (experiences.length % 100 === 0) onProgress?.(`${experiences.length} of ${jobs} callers are done`)
    }
  }
  await Promise.all(Array.from({ length: CALLERS_AT_A_TIME }, caller))
  return experiences
}

/** Looks until there are no problems or the time is over; returns those that are left. */
async function settled(deadline: number, problems: () => Promise<string[]> | string[]): Promise<string[]> {
  for (;;) {
    const left = await problems()
    if (left.length === 0 || performance.now() > deadline) return left
    await sleep(500)
  }
}

/** Every job by its customer's account, once none is open or the time is over. */
async function jobsAtRest({ target, customers }: World, deadline: number): Promise<Map<string, Job[]>> {
  await settled(deadline, async () => {
    const accounts = await Promise.all(customers.map(({ account }) => describeAccount(target, account)))
    return accounts.filter(({ open_jobs }) => open_jobs > 0).map(({ account }) => account)
  })
  const jobs = customers.map(async (customer) => [customer.account, await audit.jobsOf(target.url, customer)] as const)
  return new Map(await Promise.all(jobs))
}

/** The books can be read while the worker does not run; what is on its way into them needs it to run. */
async function bookProblems({ worker, persist }: World, jobs: readonly Job[]): Promise<string[]> {
  await worker.kill()
  const problems = audit.bookProblems(await audit.readBooks(persist), jobs)
  if (problems.length > 0) {
    await worker.start()
    await sleep(PEACE_MS)
  }
  return problems
}

/** What does not add up, once all has had the time to come to rest. */
async function problemsOf(
  world: World,
  experiences: Experience[],
  byAccount: Map<string, Job[]>,
  deadline: number,
): Promise<string[]> {
  const { target, receiver } = world
  const accounts = [...byAccount]
  const jobs = accounts.flatMap(([, own]) => own)
  const told = () => accounts.flatMap(([account, own]) => audit.webhookProblems(receiver, account, own))
  return [
    ...(await Promise.all(accounts.map(([account, own]) => audit.moneyProblems(target, account, own)))).flat(),
    ...(await audit.imageProblems(jobs)),
    ...audit.experienceProblems(experiences, jobs),
    ...(await settled(deadline, told)),
    ...(await receiver.complaints()),
    ...(await settled(deadline, () => bookProblems(world, jobs))),
  ]
}

/** Runs a campaign of its own world. */
export async function runCampaign(options: CampaignOptions): Promise<Outcome> {
  const world = await openWorld(options.seed)
  let keep = true
  try {
    const peace = new AbortController()
    const troubles = makeTrouble(world, randomOf(options.seed, 'trouble'), peace.signal)
    const experiences = await makeCalls(world, options)
    peace.abort()
    const struck = await troubles
    world.proxy.calm()
    const deadline = performance.now() + REST_MS * (1 + options.jobs / 1000)
    const jobs = await jobsAtRest(world, deadline)
    const problems = await problemsOf(world, experiences, jobs, deadline)
    keep = problems.length > 0
    const counts = { ...audit.countsOf([...jobs.values()].flat(), world.receiver), ...struck, ...world.proxy.faults }
    return { counts, problems, directory: keep ? world.directory : null }
  } finally {
    await world.close({ keep })
  }
}
