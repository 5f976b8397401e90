// The load: concurrent callers submit the jobs; afterwards each request is repeated once on the idle GPU function.
import { setTimeout as sleep } from 'node:timers/promises'
import { type Health, type JobRequest, PROTOCOL_VERSION } from '../../../gpu-fn/contract.ts'
import { isInteractive } from '../../../gpu-fn/server/job.ts'
import { Images } from './images.ts'
import type { Distinct, PlannedJob } from './requests.ts'
import { type JobOutcome, MAX_MS, submit } from './submit.ts'

export type LoadOptions = {
  /** URL of the GPU function. */
  url: string
  model: string
  requests: readonly Distinct[]
  jobs: readonly PlannedJob[]
  callers: number
  /** Time limit for the end of abandoned jobs after the load; by default that of a job. */
  idleMs?: number
}
export type Tally = { ended: Record<JobOutcome['kind'], number>; failures: string[]; seconds: number }
/** `alone`: results of one additional job per request on the idle GPU function. */
export type LoadResult = Tally & { images: Images; alone: Tally & { equal: number; unequal: number } }

const IDLE_POLL_MS = 50
const PROGRESS_MS = 30_000

class Load {
  readonly #options: LoadOptions
  readonly #images = new Images()
  readonly #start = performance.now()
  /** Duration in milliseconds of the latest image of each request, and of the latest image overall. */
  readonly #usual = new Map<number | 'any', number>()
  /** ID and outcome of the job that ended last. */
  #previous = 'no job'

  constructor(options: LoadOptions) {
    this.#options = options
  }

  async run(): Promise<LoadResult> {
    const { jobs, callers, requests, url, idleMs = MAX_MS } = this.#options
    const under = await this.#work(jobs, callers)
    await waitUntilIdle(url, idleMs)
    const [equal, unequal] = [this.#images.equal, this.#images.unequal.length]
    const alone = await this.#work(
      requests.map((_, request) => ({ id: `alone-${request}`, request, cancellation: null })),
      1,
    )
    const counts = { equal: this.#images.equal - equal, unequal: this.#images.unequal.length - unequal }
    return { ...under, images: this.#images, alone: { ...alone, ...counts } }
  }

  async #work(jobs: readonly PlannedJob[], callers: number): Promise<Tally> {
    const start = performance.now()
    const tally: Tally = {
      ended: { succeeded: 0, canceled: 0, 'hung up': 0, failed: 0 },
      ...{ failures: [], seconds: 0 },
    }
    const progress = setInterval(() => this.#printProgress(tally, jobs.length), PROGRESS_MS)
    // A shared iterator is the job queue of all callers.
    const rest = jobs.values()
    const call = async (_: unknown, caller: number) => {
      for (const job of rest) await this.#finish(job, `caller-${caller}`, tally)
    }
    await Promise.all(Array.from({ length: callers }, call))
    clearInterval(progress)
    return { ...tally, seconds: (performance.now() - start) / 1000 }
  }

  async #finish({ id, request, cancellation }: PlannedJob, tenant: string, tally: Tally): Promise<void> {
    const { url, model, requests } = this.#options
    const usual = this.#usual.get(request) ?? this.#usual.get('any') ?? 0
    const cancel = cancellation && { by: cancellation.by, ms: cancellation.at * usual }
    const start = performance.now()
    const ended = await submit(`${url}/jobs/${id}`, requestOf(model, requests[request]!, tenant), cancel)
    tally.ended[ended.kind] += 1
    const previous = this.#previous
    this.#previous = `${id} ${ended.kind}`
    if (ended.kind === 'failed') tally.failures.push(`${id}, request ${request}: ${ended.message}`)
    if (ended.kind !== 'succeeded') return
    const now = performance.now()
    for (const key of [request, 'any'] as const) this.#usual.set(key, now - start)
    const seconds = (now - this.#start) / 1000
    await this.#images.add({ request, job: id, seconds, previous, file: ended.file })
  }

  #printProgress({ ended, failures }: Tally, jobs: number): void {
    const count = Object.values(ended).reduce((sum, each) => sum + each, 0)
    const { equal, unequal } = this.#images
    console.log(`${count} of ${jobs} jobs: ${equal} equal, ${unequal.length} unequal, ${failures.length} failed`)
  }
}

/** Submits the jobs, then each request once on the idle GPU function, and compares the images of each request. */
export const runLoad = (options: LoadOptions): Promise<LoadResult> => new Load(options).run()

function requestOf(model: string, distinct: Distinct, tenant: string): JobRequest {
  const output = { count: 1, output_format: 'png', output_quality: 90, text_convention: 'diffusers' } as const
  const request = { protocol: PROTOCOL_VERSION, attempt: 1, model, ...distinct, ...output } as const
  return { ...request, schedule: { tenant, weight: 1, interactive: isInteractive(request) } }
}

/** Waits until abandoned jobs have ended. Throws after the time limit. */
async function waitUntilIdle(url: string, limitMs: number): Promise<void> {
  const limit = AbortSignal.timeout(limitMs)
  let state = 'no response'
  while (!limit.aborted) {
    const reply = await fetch(`${url}/healthz`, { signal: limit }).catch(() => null)
    if (!reply && limit.aborted) break
    // No connection: the process has ended, and the following jobs will fail.
    if (!reply) return
    const { running, queued } = (await reply.json()) as Health
    if (running + queued === 0) return
    state = `${running} running and ${queued} queued`
    await sleep(IDLE_POLL_MS)
  }
  const seconds = limitMs / 1000
  throw new Error(
    `the GPU function is not idle ${seconds} s after the last job: ${state}; abandoned jobs must be canceled`,
  )
}
