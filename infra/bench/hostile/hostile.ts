// `npm run bench -- hostile`: open-loop load at twice the capacity from honest and hostile callers. The hostile load must barely affect
// honest callers' latency, and memory must not grow.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { endWithThis } from '../../command/child-process.ts'
import { randomOf } from '../../command/random.ts'
import { SETTINGS } from '../../system/program.ts'
import { callHonestly, type Experience, measureCapacity, STEPS, summarize } from './honest.ts'
import { growthOf, type Sample, sampleMemory } from './memory.ts'
import type { HostileSettings, Tally } from './program.ts'
import { printReport, type Report } from './report.ts'
import { type HostileWorld, openHostileWorld, STEP_MS } from './world.ts'

export type HostileBenchOptions = {
  readonly minutes: number
  readonly seed: number
  /** Names of the attacks in attacks.ts to run. */
  readonly attacks: readonly string[]
}

/** Total load and honest load, relative to the capacity. */
const LOAD = 2
const HONEST = 0.5
const CAPACITY_SECONDS = 15
const SAMPLE_MS = 1_000
/** The memory of workerd grows during its first 36,000 requests of any kind, and then stays constant. */
const PRIMING = { requests: 40_000, connections: 8 }
const PROGRAM = path.join(import.meta.dirname, 'program.ts')
/** Lower CPU priority than the honest callers and the service, as if the hostile callers ran on other machines. */
const NICENESS = 10

type HostileCallers = { stop: () => Promise<Record<string, Tally>> }

async function startHostileCallers(settings: HostileSettings): Promise<HostileCallers> {
  const env = { ...process.env, [SETTINGS]: JSON.stringify(settings) }
  const child = endWithThis(fork(PROGRAM, [], { env }))
  os.setPriority(child.pid!, NICENESS)
  const ended = once(child, 'exit').then(([code]) => {
    throw new Error(`the hostile callers ended with ${code}`)
  })
  ended.catch(() => {})
  await Promise.race([once(child, 'message'), ended])
  return {
    async stop() {
      const tallies = once(child, 'message')
      child.send('stop')
      const [result] = (await Promise.race([tallies, ended])) as [Record<string, Tally>]
      return result
    },
  }
}

/** Runs honest callers alone for `minutes` while sampling memory. */
async function runPhase(
  world: HostileWorld,
  options: { perSecond: number; minutes: number; seed: number; name: string },
) {
  const { perSecond, minutes, seed, name } = options
  const signal = AbortSignal.timeout(minutes * 60_000)
  const samples: Sample[] = []
  const sampling = (async () => {
    while (!signal.aborted) {
      samples.push(sampleMemory(world.processes()))
      await sleep(SAMPLE_MS, null, { signal }).catch(() => {})
    }
  })()
  const target = { url: world.url, customers: world.accounts.honest }
  const experience = await callHonestly(target, perSecond, randomOf(seed, name), signal)
  await sampling
  return { experience, samples }
}

/** Sends no-op requests, so that workerd's own warm-up growth is not attributed to the worker. A short bench sends fewer. */
async function primeMemory({ url }: HostileWorld, minutes: number): Promise<void> {
  let left = Math.round(PRIMING.requests * Math.min(1, minutes / 5))
  const send = async () => {
    while (left-- > 0) await (await fetch(`${url}/healthz`)).arrayBuffer()
  }
  await Promise.all(Array.from({ length: PRIMING.connections }, send))
}

async function measureBoth(world: HostileWorld, { minutes, seed, attacks }: HostileBenchOptions): Promise<Report> {
  const target = { url: world.url, customers: world.accounts.honest }
  await primeMemory(world, minutes)
  // The first requests include one-time initialization.
  await measureCapacity(target, randomOf(seed, 'warm-up'), 2)
  const capacity = await measureCapacity(target, randomOf(seed, 'capacity'), Math.min(CAPACITY_SECONDS, minutes * 60))
  const perSecond = capacity * HONEST
  console.log(`capacity: ${capacity.toFixed(1)} images per second (one GPU function, ${STEPS * STEP_MS} ms per image)`)
  console.log(`honest callers alone: ${perSecond.toFixed(1)} images per second for ${minutes / 2} minutes`)
  const alone = await runPhase(world, { perSecond, minutes: minutes / 2, seed, name: 'alone' })
  const jobsPerSecond = capacity * (LOAD - HONEST)
  console.log(`then with hostile callers: another ${jobsPerSecond.toFixed(1)} jobs per second for ${minutes} minutes`)
  const { flood, hooks: hooksKey, revoked } = world.accounts
  const job = { prompt: 'flood', route: 'full', steps: STEPS, n: 1 }
  const settings = { url: world.url, flood, hooksKey, revoked, job, seed, attacks, jobsPerSecond }
  const hostile = await startHostileCallers(settings)
  const among = await runPhase(world, { perSecond, minutes, seed, name: 'among' })
  const tallies = await hostile.stop()
  const countFailures = (experience: Experience) => Object.fromEntries(experience.failures)
  return {
    alone: { ...summarize(alone.experience), failures: countFailures(alone.experience) },
    among: { ...summarize(among.experience), failures: countFailures(among.experience) },
    tallies,
    memory: { alone: growthOf(alone.samples), among: growthOf(among.samples) },
  }
}

/** Prints both phases, their ratio, the replies to hostile requests, and memory usage. Sets exit code 1 if a criterion is not met. */
export async function benchHostile(options: HostileBenchOptions): Promise<void> {
  console.log(
    `${os.availableParallelism()} cores for workerd, its storage simulators, the GPU function and all callers; seed ${options.seed}`,
  )
  const world = await openHostileWorld()
  try {
    const met = printReport(await measureBoth(world, options))
    if (!met) process.exitCode = 1
  } finally {
    await world.close()
  }
}
