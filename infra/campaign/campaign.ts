// The crash campaign. Under load, it first kills the worker and the GPU functions and disrupts the network between them; then it resets
// every Durable Object as deploys do, which must be invisible to callers; then it tries to run expensive jobs on cheap reservations.
// Finally it audits all records for consistency.
//
// The campaign is as large as it is because money, jobs and results span five stores and two processes, and no library injects faults into
// all of them and then reconciles their records.
import { setTimeout as sleep } from 'node:timers/promises'
import { type Random, randomOf } from '../command/random.ts'
import { describeAccount } from '../operator/keys.ts'
import { type Client, type Job, oneShot, persistent } from '../system/client.ts'
import { readRuns } from '../system/programs/gpu-runs.ts'
import type { Customer } from '../system/system.ts'
import * as audit from './audit/audit.ts'
import { findBookProblems, findReservationProblems } from './audit/books.ts'
import { fetchNextAttempt, pollDeliveries } from './audit/deliveries.ts'
import { type Books, readBooks } from './audit/records.ts'
import { runCounts, runProblems } from './audit/runs.ts'
import { call, type Experience } from './callers.ts'
import { type Counts, disturbProcesses, FROZEN_MS, resetObjects } from './faults/faults.ts'
import { attackReservations } from './faults/takeover.ts'
import { openWorld, UNREAD_MS, type World } from './world.ts'

type CampaignOptions = {
  /** Number of callers, most of whom create a job. */
  jobs: number
  /** Determines all faults, callers and requests, but not the timing between faults and jobs. */
  seed: number
  onProgress?: (line: string) => void
}
/** `problems` is empty if all audits pass; otherwise `directory` has the logs and databases of the processes. */
export type Outcome = { counts: Counts; problems: string[]; directory: string | null }

const CALLERS_AT_A_TIME = 12
/**
 * Number of unfinished jobs of an account above which its next caller waits. Many callers do not wait for their job, so a slow machine
 * would fall behind.
 */
const MAX_OPEN_JOBS = 8
/** Fraction of callers in the phase that kills processes; the others call while objects are reset. */
const KILLED_SHARE = 0.7
const JOBS_AN_ATTACK = 500
const CALLER_MS = 120_000
/** Time limit until the system is idle; multiplied by 1 + jobs / 1000. */
const IDLE_MS = 60_000
/** Settled rows wait 10 s in their account and 5 s in the queue; stopping the worker sooner would prevent their export. */
const EXPORT_MS = 20_000
/** Maximum time of a run after the end of its job: the unread timeout, a frozen process, and a margin for slow machines. */
const GRACE_MS = UNREAD_MS + FROZEN_MS + 7_000

/** The outcome of a caller whose job does not end in time. */
async function expireCaller(number: number): Promise<Experience> {
  await sleep(CALLER_MS, null, { ref: false })
  return { behavior: 'waits', complaint: `caller ${number} was not done within ${CALLER_MS / 1000} s` }
}

/** Callers `from` (inclusive) to `to` (exclusive), and the faults during their calls, each after a random pause. */
type Phase = {
  /** Name of the random sequence of its faults. */
  name: string
  from: number
  to: number
  client: Client
  inject: (world: World, random: Random) => Promise<Counts>
  pauseMs: readonly [min: number, max: number]
}

/** Waits until the account has few unfinished jobs. */
async function awaitRoom({ target }: World, { account }: Customer): Promise<void> {
  for (;;) {
    // The worker may be away.
    const described = await describeAccount(target, account).catch(() => null)
    if (described && described.open_jobs < MAX_OPEN_JOBS) return
    await sleep(200)
  }
}

/** Runs the callers of a phase with limited concurrency. */
async function makeCalls(
  world: World,
  { seed, onProgress }: CampaignOptions,
  { client, from, to }: Phase,
): Promise<Experience[]> {
  const { target, customers } = world
  const experiences: Experience[] = []
  let next = from
  const createCaller = async () => {
    while (next < to) {
      const number = next++
      const random = randomOf(seed, `caller ${number}`)
      const customer = customers[random.between(0, customers.length - 1)]!
      const own = awaitRoom(world, customer).then(() => call({ client, url: target.url, customer, number, random }))
      experiences.push(await Promise.race([own, expireCaller(number)]))
      if (experiences.length % 100 === 0) onProgress?.(`${experiences.length} of ${to - from} callers are done`)
    }
  }
  await Promise.all(Array.from({ length: CALLERS_AT_A_TIME }, createCaller))
  return experiences
}

/** Runs the callers of a phase under its faults. Returns their experiences and adds to the counts of faults. */
async function runPhase(world: World, options: CampaignOptions, phase: Phase, counts: Counts): Promise<Experience[]> {
  const { name, inject, pauseMs } = phase
  const random = randomOf(options.seed, name)
  const end = new AbortController()
  const { signal } = end
  const injectUntilEnd = async () => {
    // On a slow machine, restarts take longer, and so do the pauses between them.
    for (let lastMs = 0; !signal.aborted; ) {
      await sleep(Math.max(random.between(...pauseMs), lastMs), null, { signal }).catch(() => {})
      const start = performance.now()
      for (const [fault, count] of Object.entries(await inject(world, random)))
        counts[fault] = (counts[fault] ?? 0) + count
      lastMs = performance.now() - start
    }
  }
  const injected = injectUntilEnd()
  const experiences = await makeCalls(world, options, phase).finally(() => end.abort())
  await injected
  return experiences
}

/** Runs the three fault phases. Returns the callers' experiences and counts of all faults. */
async function disturb(world: World, options: CampaignOptions): Promise<{ experiences: Experience[]; counts: Counts }> {
  const { jobs, seed, onProgress } = options
  const max = Math.ceil(jobs * KILLED_SHARE)
  const killing: Phase = {
    ...{ name: 'trouble', from: 0, to: max, client: persistent },
    ...{ inject: disturbProcesses, pauseMs: [1000, 4000] },
  }
  const resetting: Phase = {
    ...{ name: 'resets', from: max, to: jobs, client: oneShot },
    ...{ inject: resetObjects, pauseMs: [300, 2500] },
  }
  const counts: Counts = {}
  onProgress?.('processes are killed')
  const experiences = await runPhase(world, options, killing, counts)
  world.network.calm()
  await awaitIdleJobs(world, performance.now() + IDLE_MS)
  onProgress?.('objects are reset')
  experiences.push(...(await runPhase(world, options, resetting, counts)))
  onProgress?.('reservations are attacked')
  const rounds = Math.ceil(jobs / JOBS_AN_ATTACK)
  for (let round = 0; round < rounds; round++)
    experiences.push(...(await attackReservations(world, round, randomOf(seed, `attack ${round}`))))
  return { experiences, counts: { ...counts, ...world.network.faults, 'attacks on reservations': rounds } }
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
  const reports = gpuPorts.map(async (port) => {
    const reply = await fetch(`http://127.0.0.1:${port}/healthz`)
    const { running, queued } = (await reply.json()) as { running: number; queued: number }
    const busy = running + queued > 0
    return busy ? [`the GPU function on port ${port} still has ${running} running and ${queued} queued jobs`] : []
  })
  return (await Promise.all(reports)).flat()
}

/** Stops the worker and reads its databases, with restarts while exports are incomplete. */
async function readStoppedBooks({ worker, persist }: World, jobs: readonly Job[], deadline: number): Promise<Books> {
  for (;;) {
    await worker.kill()
    const books = await readBooks(persist)
    if (findBookProblems(books, jobs).length === 0 || performance.now() > deadline) return books
    await worker.start()
    await sleep(EXPORT_MS)
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
  const findWebhookProblems = () =>
    accounts.flatMap(([account, each]) => audit.findWebhookProblems(receiver, account, each))
  const undelivered = await pollDeliveries(deadline, findWebhookProblems, () => fetchNextAttempt(target.url, customers))
  // The wait for deliveries does not shorten the waits below.
  const later = Math.max(deadline, performance.now() + IDLE_MS)
  const online = [
    ...(await Promise.all(accounts.map(([account, each]) => audit.findMoneyProblems(target, account, each)))).flat(),
    ...(await audit.findImageProblems(jobs)),
    ...audit.findExperienceProblems(experiences, jobs),
    ...undelivered,
    ...(await receiver.complaints()),
    ...(await pollProblems(later, () => findBusyGpus(world))),
  ]
  const books = await readStoppedBooks(world, jobs, later)
  const runs = await readRuns(directory)
  const problems = [
    ...online,
    ...findBookProblems(books, jobs),
    ...findReservationProblems(books, jobs),
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
    const deadline = performance.now() + IDLE_MS * (1 + options.jobs / 1000)
    const result = await runAudits(world, experiences, deadline)
    keep = result.problems.length > 0
    return { ...result, counts: { ...result.counts, ...counts }, directory: keep ? world.directory : null }
  } finally {
    await world.close({ keep })
  }
}
