// The crash campaign. Under load, it first kills the worker and the GPU functions and disrupts the network between them; then it resets
// every Durable Object as deploys do, which must be invisible to callers; then it tries to run expensive jobs on cheap reservations.
// Finally it audits all records for consistency.
//
// The campaign is as large as it is because money, jobs and results span five stores and two processes, and no library injects faults into
// all of them and then reconciles their records.
import { setTimeout as sleep } from 'node:timers/promises'
import { describeAccount } from '../operator/keys.ts'
import * as audit from './audit/audit.ts'
import { bookProblems, reservationProblems } from './audit/books.ts'
import { type Books, readBooks } from './audit/records.ts'
import { runCounts, runProblems } from './audit/runs.ts'
import { call, type Experience } from './callers.ts'
import { type Client, type Job, oneShot, persistent } from './client.ts'
import { resetObjects } from './faults/resets.ts'
import { attackReservations } from './faults/takeover.ts'
import { FROZEN_MS, injectTrouble } from './faults/trouble.ts'
import { readRuns } from './programs/gpu-runs.ts'
import { randomOf } from './random.ts'
import { openWorld, UNREAD_MS, type World } from './world.ts'

export type CampaignOptions = {
  /** Number of callers, most of whom create a job. */
  jobs: number
  /** Determines all faults, callers and requests, but not the timing between faults and jobs. */
  seed: number
  onProgress?: (line: string) => void
}
/** `problems` is empty if all audits pass; otherwise `directory` has the logs and databases of the processes. */
export type Outcome = { counts: Record<string, number>; problems: string[]; directory: string | null }

const CALLERS_AT_A_TIME = 12
/** Fraction of callers in the phase that kills processes; the others call while objects are reset. */
const KILLED_SHARE = 0.7
const JOBS_AN_ATTACK = 500
const ANSWER_MS = 120_000
/** Time limit until the system is idle, and as much again for each thousand jobs. */
const REST_MS = 60_000
/** Settled rows wait 10 s in their account and 5 s in the queue; stopping the worker sooner would prevent their export. */
const PEACE_MS = 20_000
/** How long a run may outlive its job: the unread timeout, a frozen process, and a margin for slow machines. */
const GRACE_MS = UNREAD_MS + FROZEN_MS + 7_000

/** The outcome of a caller whose job does not end in time. */
async function expireCaller(number: number): Promise<Experience> {
  await sleep(ANSWER_MS, null, { ref: false })
  return { way: 'waits', complaint: `caller ${number} was not done within ${ANSWER_MS / 1000} s` }
}

type Callers = { client: Client; from: number; to: number }

/** Runs callers `from` (inclusive) to `to` (exclusive) with limited concurrency. */
async function makeCalls(
  { target: { url }, customers }: World,
  { seed, onProgress }: CampaignOptions,
  { client, from, to }: Callers,
): Promise<Experience[]> {
  const experiences: Experience[] = []
  let next = from
  const caller = async () => {
    while (next < to) {
      const number = next++
      const random = randomOf(seed, `caller ${number}`)
      const customer = customers[random.between(0, customers.length - 1)]!
      const own = call({ client, url, customer, number, random })
      experiences.push(await Promise.race([own, expireCaller(number)]))
      if (experiences.length % 100 === 0) onProgress?.(`${experiences.length} of ${to - from} callers are done`)
    }
  }
  await Promise.all(Array.from({ length: CALLERS_AT_A_TIME }, caller))
  return experiences
}

/** Runs `calls` while `disturb` injects faults. */
async function runDuring<Result, Counts>(
  disturb: (signal: AbortSignal) => Promise<Counts>,
  calls: () => Promise<Result>,
): Promise<[Result, Counts]> {
  const peace = new AbortController()
  const disturbed = disturb(peace.signal)
  const result = await calls().finally(() => peace.abort())
  return [result, await disturbed]
}

/** Runs the three fault phases. Returns the callers' experiences and counts of all faults. */
async function disturb(world: World, options: CampaignOptions) {
  const { jobs, seed, onProgress } = options
  const most = Math.ceil(jobs * KILLED_SHARE)
  onProgress?.('processes are killed')
  const [killed, troubles] = await runDuring(
    (signal) => injectTrouble(world, randomOf(seed, 'trouble'), signal),
    () => makeCalls(world, options, { client: persistent, from: 0, to: most }),
  )
  world.proxy.calm()
  await awaitIdleJobs(world, performance.now() + REST_MS)
  onProgress?.('objects are reset')
  const [reset, resets] = await runDuring(
    (signal) => resetObjects(world, randomOf(seed, 'resets'), signal),
    () => makeCalls(world, options, { client: oneShot, from: most, to: jobs }),
  )
  onProgress?.('reservations are attacked')
  const experiences = [...killed, ...reset]
  const rounds = Math.ceil(jobs / JOBS_AN_ATTACK)
  for (let round = 0; round < rounds; round++)
    experiences.push(...(await attackReservations(world, round, randomOf(seed, `attack ${round}`))))
  return { experiences, counts: { ...troubles, ...world.proxy.faults, ...resets, 'attacks on reservations': rounds } }
}

/** Repeats an audit until it finds no problems or the time limit is reached. Returns the remaining problems. */
async function pollProblems(deadline: number, problems: () => Promise<string[]> | string[]): Promise<string[]> {
  for (;;) {
    const left = await problems()
    if (left.length === 0 || performance.now() > deadline) return left
    await sleep(500)
  }
}

/** Waits until no job is open or the time limit is reached. */
async function awaitIdleJobs({ target, customers }: World, deadline: number): Promise<void> {
  await pollProblems(deadline, async () => {
    const accounts = await Promise.all(customers.map(({ account }) => describeAccount(target, account)))
    return accounts.filter(({ open_jobs }) => open_jobs > 0).map(({ account }) => account)
  })
}

/** Reports the GPU functions that still have jobs. */
async function findBusyGpus({ gpuPorts }: World): Promise<string[]> {
  const busy = gpuPorts.map(async (port) => {
    const { running, queued } = (await (await fetch(`http://127.0.0.1:${port}/healthz`)).json()) as Record<
      string,
      number
    >
    return running! + queued! > 0
      ? [`the GPU function on port ${port} still has ${running} running and ${queued} queued jobs`]
      : []
  })
  return (await Promise.all(busy)).flat()
}

/** Stops the worker and reads its databases, with restarts while exports are incomplete. */
async function readStoppedBooks({ worker, persist }: World, jobs: readonly Job[], deadline: number): Promise<Books> {
  for (;;) {
    await worker.kill()
    const books = await readBooks(persist)
    if (bookProblems(books, jobs).length === 0 || performance.now() > deadline) return books
    await worker.start()
    await sleep(PEACE_MS)
  }
}

/** Runs all audits once the system is idle. Returns the problems and all counts. */
async function runAudits(
  world: World,
  experiences: Experience[],
  deadline: number,
): Promise<Omit<Outcome, 'directory'>> {
  const { target, customers, receiver, directory } = world
  await awaitIdleJobs(world, deadline)
  const own = customers.map(async (customer) => [customer.account, await audit.jobsOf(target.url, customer)] as const)
  const accounts = await Promise.all(own)
  const jobs = accounts.flatMap(([, each]) => each)
  const told = () => accounts.flatMap(([account, each]) => audit.webhookProblems(receiver, account, each))
  const seen = [
    ...(await Promise.all(accounts.map(([account, each]) => audit.moneyProblems(target, account, each)))).flat(),
    ...(await audit.imageProblems(jobs)),
    ...audit.experienceProblems(experiences, jobs),
    ...(await pollProblems(deadline, told)),
    ...(await receiver.complaints()),
    ...(await pollProblems(deadline, () => findBusyGpus(world))),
  ]
  const books = await readStoppedBooks(world, jobs, deadline)
  const runs = await readRuns(directory)
  const problems = [
    ...seen,
    ...bookProblems(books, jobs),
    ...reservationProblems(books, jobs),
    ...runProblems(runs, books.jobs, GRACE_MS),
  ]
  return { problems, counts: { ...audit.countsOf(jobs, receiver), ...runCounts(runs, books.jobs) } }
}

/** Runs a campaign in a new world. */
export async function runCampaign(options: CampaignOptions): Promise<Outcome> {
  const world = await openWorld(options.seed)
  let keep = true
  try {
    const { experiences, counts } = await disturb(world, options)
    const deadline = performance.now() + REST_MS * (1 + options.jobs / 1000)
    const result = await runAudits(world, experiences, deadline)
    keep = result.problems.length > 0
    return { ...result, counts: { ...result.counts, ...counts }, directory: keep ? world.directory : null }
  } finally {
    await world.close({ keep })
  }
}
