// `npm run bench -- soak`: random faults under load. Every job must end once, with the image of its seed, unless it was canceled.
import { createHash } from 'node:crypto'
import { cp, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { compile } from '../../../gpu-fn/compile/compile.ts'
import { type JobRequest, PROTOCOL_VERSION } from '../../../gpu-fn/contract.ts'
import { PackageEngine } from '../../../gpu-fn/engine/package-engine.ts'
import { type Job, outcomeOf, waitForChange } from '../../../gpu-fn/server/job.ts'
import { Jobs } from '../../../gpu-fn/server/jobs.ts'
import { Refusal } from '../../../gpu-fn/server/requests/refusal.ts'
import { streamJob } from '../../../gpu-fn/server/stream.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'
import { writeTinyCheckpoint } from '../../checkpoints/tiny/checkpoint.ts'
import { type Random, randomOf } from '../../command/random.ts'
import { makeScratch } from '../../command/scratch.ts'
import { CHANNEL, ENGINE_FAULTS } from './faults.ts'

export type SoakOptions = { minutes: number; faults: number; callers: number; seed: number }

/** Faults outside of the engine's thread. */
const OTHER_FAULTS = [
  'canceled',
  'reader leaves',
  'reader is stuck',
  'package replaced',
  'package deleted',
  'clock jumps',
] as const
const FAULTS = [...ENGINE_FAULTS, ...OTHER_FAULTS]
type Fault = (typeof FAULTS)[number]
const TIERS = ['fp8', 'fp32'] as const
const ATTEMPTS = 12
const STUCK_MS = 120_000
const SEEDS = 8

type Tally = {
  faults: Record<string, number>
  jobs: number
  succeeded: number
  canceled: number
  attempts: number
  refused: number
  wrong: string[]
  stuck: string[]
  lost: string[]
  /** Number of faults that also affected the engine's self-test, after which the process would have been replaced. */
  givenUp: number
}

/** Compiles the same tiny checkpoint in two tiers. */
async function makePackages(directory: string): Promise<string> {
  const checkpoint = await writeTinyCheckpoint(path.join(directory, 'checkpoint'), {})
  for (const tier of TIERS) {
    const out = path.join(directory, 'packages', tier)
    await compile({ checkpoint: [checkpoint], out, tier, target: 'cpu', variant: 'custom', name: 'tiny' })
  }
  return path.join(directory, 'packages')
}

class Soak {
  readonly #random: Random
  readonly #options: SoakOptions
  readonly #jobs: Jobs
  readonly #packages: string
  readonly #channel = new BroadcastChannel(CHANNEL)
  /** SHA-256 of the image from the first run of each request. */
  readonly #images = new Map<string, string>()
  readonly tally: Tally = {
    ...{ faults: {}, jobs: 0, succeeded: 0, canceled: 0, attempts: 0, refused: 0, wrong: [], stuck: [], lost: [] },
    givenUp: 0,
  }

  constructor(jobs: Jobs, packages: string, options: SoakOptions) {
    this.#jobs = jobs
    this.#packages = packages
    this.#options = options
    this.#random = randomOf(options.seed, 'soak')
  }

  async run(): Promise<void> {
    const end = performance.now() + this.#options.minutes * 60_000
    const callers = Array.from({ length: this.#options.callers }, (_, k) => this.#call(k, end))
    const pause = (this.#options.minutes * 60_000) / Math.max(1, this.#options.faults)
    for (let k = 0; k < this.#options.faults; k++) {
      await sleep(pause * 0.9)
      await this.#raise(FAULTS[this.#random.between(0, FAULTS.length - 1)]!)
    }
    await Promise.all(callers)
    this.#channel.close()
  }

  async #raise(fault: Fault): Promise<void> {
    this.tally.faults[fault] = (this.tally.faults[fault] ?? 0) + 1
    if (fault === 'clock jumps') return jumpClock(this.#random)
    if (fault === 'package replaced' || fault === 'package deleted') return this.#disturbPackage(fault)
    if (fault === 'canceled' || fault === 'reader leaves' || fault === 'reader is stuck') this.#pending.push(fault)
    else this.#channel.postMessage(fault)
  }

  /** Faults for the next job to submit. */
  readonly #pending: Fault[] = []

  /** Replaces a package by a copy, or removes it for a moment, while jobs use it. */
  async #disturbPackage(fault: Fault): Promise<void> {
    const directory = path.join(this.#packages, TIERS[this.#random.between(0, TIERS.length - 1)]!)
    const [copy, old] = [`${directory}.copy`, `${directory}.old`]
    if (fault === 'package replaced') await cp(directory, copy, { recursive: true })
    await rename(directory, old)
    if (fault === 'package deleted') await sleep(this.#random.between(1, 200))
    await rename(fault === 'package replaced' ? copy : old, directory)
    await rm(old, { recursive: true, force: true })
  }

  async #call(caller: number, end: number): Promise<void> {
    const random = randomOf(this.#options.seed, `caller ${caller}`)
    for (let k = 0; performance.now() < end; k++) {
      this.tally.jobs += 1
      await this.#finish(`job-${caller}-${k}`, random)
    }
  }

  /** Repeats a job until it has succeeded or was canceled, as the worker does. */
  async #finish(id: string, random: Random): Promise<void> {
    const request = requestOf(random)
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const job = await this.#submit(id, { ...request, attempt })
      this.tally.attempts += 1
      const fault = this.#pending.shift()
      if (fault) disturbReader(fault, this.#jobs, job)
      const detach = fault === 'reader leaves' ? () => {} : this.#jobs.attach(job)
      const limit = performance.now() + STUCK_MS
      while (!outcomeOf(job) && performance.now() < limit) await waitForChange(job, 1_000)
      detach()
      const ended = outcomeOf(job)
      if (!ended) return void this.tally.stuck.push(id)
      if (ended.type === 'canceled' && fault === 'canceled') {
        this.tally.canceled += 1
        return
      }
      if (ended.type === 'succeeded') return this.#check(id, job)
    }
    this.tally.lost.push(id)
  }

  async #submit(id: string, request: JobRequest): Promise<Job> {
    for (;;) {
      try {
        return this.#jobs.submit(id, request)
      } catch (error) {
        if (!(error instanceof Refusal) || error.retryAfter === undefined) throw error
        this.tally.refused += 1
        await sleep(Math.min(error.retryAfter, 2) * 1000)
      }
    }
  }

  #check(id: string, job: Job): void {
    this.tally.succeeded += 1
    const images = job.entries.flatMap(({ data, event }) => (data && event.type === 'image' ? [data] : []))
    const { attempt: _, schedule: __, ...parameters } = job.request
    const key = JSON.stringify(parameters)
    const digest = createHash('sha256').update(images[0]!).digest('hex')
    const expected = this.#images.get(key) ?? digest
    this.#images.set(key, expected)
    if (images.length !== 1 || digest !== expected) this.tally.wrong.push(id)
  }
}

function disturbReader(fault: Fault, jobs: Jobs, job: Job): void {
  if (fault === 'canceled') {
    setTimeout(() => {
      try {
        jobs.cancel(job.id, job.attempt)
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
      }
    }, 20)
  }
  // A stream without reads keeps the job's log in memory, and nothing else.
  if (fault === 'reader is stuck') streamJob(job, { type: 'heartbeat' }, 5_000, jobs.attach(job))
}

/** The system's clock jumps by up to a day and returns. Durations must not depend on it. */
function jumpClock(random: Random): Promise<void> {
  const { now } = Date
  const jump = random.between(-86_400_000, 86_400_000)
  Date.now = () => now() + jump
  return sleep(random.between(10, 300)).then(() => {
    Date.now = now
  })
}

function requestOf(random: Random): JobRequest {
  const isTurbo = random.chance(0.8)
  const shape = { width: 64, height: random.pick({ 64: 1, 96: 1 }) === '64' ? 64 : 96, count: 1 }
  const text = { prompt: `cat ${random.between(1, 3)}`, negative_prompt: '', text_convention: 'diffusers' } as const
  return {
    ...{ protocol: PROTOCOL_VERSION, attempt: 1, model: 'tiny', tier: TIERS[random.between(0, 1)]!, ...shape, ...text },
    ...{ steps: isTurbo ? 4 : 28, guidance_scale: isTurbo ? 1 : 4, seed: random.between(1, SEEDS) },
    ...{ output_format: 'png', output_quality: 90 },
    schedule: { tenant: `tenant-${random.between(1, 4)}`, weight: 1, interactive: isTurbo },
  }
}

/** Runs the soak and returns its counts. */
export async function runSoak(options: SoakOptions): Promise<Tally & { memory: { first: number; last: number } }> {
  await using scratch = makeScratch('octet-soak-')
  const { directory } = scratch
  const log = pino({ level: 'silent' })
  const packages = await makePackages(directory)
  const limits = { memoryBytes: 1e9, stallSeconds: 60, promptCacheBytes: 1 << 20 }
  const program = new URL('./faulty-worker.ts', import.meta.url)
  const verifier = new Verifier({ directory: path.join(directory, 'cache'), log })
  const onStall = () => {
    throw new Error('the engine hangs')
  }
  const engine = new PackageEngine({ ...limits, packages, log, verifier, program, onStall })
  await engine.start()
  const kept = { queue: 64, retainSeconds: 60, retainBytes: 1 << 24, unreadSeconds: 1 }
  let givenUp = 0
  const onBroken = () => {
    givenUp += 1
  }
  const jobs = new Jobs({ engine, lifecycle: { status: 'ready' }, log, onBroken, ...kept })
  const soak = new Soak(jobs, packages, options)
  const first = process.memoryUsage().rss
  await soak.run()
  await jobs.waitUntilIdle()
  const memory = { first, last: process.memoryUsage().rss }
  await engine.stop()
  return { ...soak.tally, givenUp, memory }
}

/** Prints the counts. Sets exit code 1 if a job was lost, wrong or stuck. */
export async function benchSoak(options: SoakOptions): Promise<void> {
  const { faults, memory, wrong, stuck, lost, ...counts } = await runSoak(options)
  const total = Object.values(faults).reduce((sum, count) => sum + count, 0)
  console.log(`${total} faults in ${options.minutes} minutes, seed ${options.seed}: ${formatCounts(faults)}`)
  console.log(formatCounts(counts))
  console.log(`wrong images ${wrong.length}, stuck jobs ${stuck.length}, lost jobs ${lost.length}`)
  const formatMegabytes = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MB`
  console.log(`resident memory: ${formatMegabytes(memory.first)} at first, ${formatMegabytes(memory.last)} at the end`)
  const bad = [...wrong, ...stuck, ...lost]
  if (bad.length > 0) {
    console.log(`seen in: ${bad.slice(0, 20).join(', ')}`)
    process.exitCode = 1
  }
}

const formatCounts = (counts: Readonly<Record<string, number>>) =>
  Object.entries(counts)
    .map(([name, count]) => `${count} ${name}`)
    .join(', ')
