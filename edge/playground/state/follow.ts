// Follows a job to its end by server-sent events.

import { formatMoney } from '../api/format.ts'
import { call, isProblem, localPathOf, type Problem } from '../api/http.ts'
import type { GpuState, JobView } from '../api/types.ts'
import { findRun, isFinal, patchRun, type Run, type RunImage, thumbnailOf } from './history.ts'
import { announce, endLive, liveOf, patchLive } from './live.ts'
import { refreshQuote } from './quote.ts'

const POLL_MS = 1000
const RECONNECT_MS = [1000, 2000, 5000, 10_000]

/** The fields of a run that a job determines. */
export function runFields(job: JobView): Partial<Run> {
  const { route, model, tier, steps, guidance_scale, reason, created, finished, error } = job
  return {
    job: job.id,
    state: job.state,
    decision: { route, model, tier, steps, guidance_scale, reason },
    price: job.price_microdollars,
    seconds: finished === null ? null : (job.timings?.total ?? Math.max(0, finished - created)),
    warnings: job.warnings.map(({ message }) => message),
    error: error && { ...error, requestId: null },
    linked: Date.now(),
  }
}

/** The images of a finished job. Thumbnails of an earlier call are kept. */
async function imagesOf(job: JobView, known: readonly RunImage[]): Promise<RunImage[]> {
  return Promise.all(
    job.images.map(async ({ seed, url, sha256, content_type, expires_at }, k) => {
      const path = url && localPathOf(url)
      const thumbnail = known[k]?.thumbnail ?? (path && (await fetchThumbnail(path)))
      return { seed, url: path, sha256, content_type, expires_at, thumbnail }
    }),
  )
}

async function fetchThumbnail(path: string): Promise<string | null> {
  const response = await fetch(path).catch(() => null)
  return response?.ok ? thumbnailOf(await response.blob()) : null
}

const END_WORDS: Record<string, (job: JobView) => string> = {
  succeeded: (job) => `Done, ${formatMoney(job.price_microdollars)}.`,
  failed: (job) => `Failed. ${job.error?.message ?? ''}`,
  canceled: (job) => `Canceled. Charged ${formatMoney(job.price_microdollars)}.`,
}

/** The worker reads the durations of finished jobs at most every ten seconds. */
const OBSERVED_MS = 11_000

async function finish(id: string, job: JobView): Promise<void> {
  const images = await imagesOf(job, findRun(id)?.images ?? [])
  patchRun(id, { ...runFields(job), images })
  endLive(id)
  announce(END_WORDS[job.state]?.(job) ?? '')
  setTimeout(refreshQuote, OBSERVED_MS)
}

/** Reads the job of a run. Returns null once the run has ended. Errors: Problem. */
async function update(id: string, jobId: string): Promise<JobView | null> {
  const job = await call<JobView>('GET', `/v1/jobs/${jobId}`)
  if (isFinal(job)) {
    await finish(id, job)
    return null
  }
  patchRun(id, runFields(job))
  const { gpu, progress } = job
  patchLive(id, { gpu, isReconnecting: false, ...(progress && 'position' in progress && progress) })
  if (gpu && gpu.state !== 'warm') expectGpu(id, gpu)
  return job
}

/**
 * Sets the length of the bar to the time until the GPU is ready. A set length does not change while the GPU is cold, or late: the reported
 * time of a late GPU stays at one second.
 */
function expectGpu(id: string, { state, ready_in_seconds: seconds }: GpuState): void {
  const { waitBegan, waitMs } = liveOf(id)
  if (waitMs !== null && (state === 'cold' || seconds <= 1)) return
  const began = waitBegan || Date.now()
  patchLive(id, { waitBegan: began, waitMs: Date.now() - began + seconds * 1000 })
}

const quarters = new Map<string, number>()
function announceQuarter(id: string, share: number): void {
  const quarter = Math.floor(share * 4)
  if (quarter < 1 || quarter > 3 || quarters.get(id) === quarter) return
  quarters.set(id, quarter)
  announce(`${quarter * 25} percent.`)
}

type EventData = {
  position?: number
  image: number
  step: number
  steps: number
  content_type: string
  b64_json: string
}

function listen(source: EventSource, id: string): void {
  const on = (type: string, handle: (data: EventData) => void) =>
    source.addEventListener(type, (event) => {
      patchLive(id, { isReconnecting: false })
      handle(JSON.parse((event as MessageEvent<string>).data) as EventData)
    })
  on('queued', ({ position = null }) => {
    patchRun(id, { state: 'queued' })
    patchLive(id, { position })
  })
  on('starting', () => {
    patchRun(id, { state: 'starting' })
    if (liveOf(id).waitBegan === 0) patchLive(id, { waitBegan: Date.now(), position: null })
  })
  on('running', () => {
    patchRun(id, { state: 'running' })
    refreshQuote()
  })
  on('retrying', () => {
    patchRun(id, { state: 'queued' })
    announce('The GPU did not finish. The job is tried again.')
  })
  on('step', ({ image, step, steps }) => {
    patchLive(id, { image, step, steps })
    announceQuarter(id, step / steps)
  })
  on('preview', ({ content_type, b64_json }) => patchLive(id, { preview: `data:${content_type};base64,${b64_json}` }))
}

const following = new Set<string>()
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Opens the event stream of a job and resolves when it is closed. EventSource itself reconnects after short interruptions. */
function stream(id: string, job: JobView): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const source = new EventSource(localPathOf(job.events_url))
  const poll = setInterval(() => {
    const run = findRun(id)
    if (!run) return close()
    if (run.state !== 'running')
      void update(id, job.id).then(
        (open) => open ?? close(),
        () => {},
      )
  }, POLL_MS)
  const close = () => {
    clearInterval(poll)
    source.close()
    resolve()
  }
  listen(source, id)
  for (const type of ['succeeded', 'failed', 'canceled']) source.addEventListener(type, close)
  source.addEventListener('error', () => {
    patchLive(id, { isReconnecting: true })
    if (source.readyState === EventSource.CLOSED) close()
  })
  return promise
}

/** Follows a job until it has ended, across lost connections. */
export async function follow(id: string, jobId: string): Promise<void> {
  if (following.has(id)) return
  following.add(id)
  patchLive(id, {})
  for (let failures = 0; findRun(id) && !isFinal(findRun(id)!); ) {
    try {
      const job = await update(id, jobId)
      if (!job) break
      await stream(id, job)
      failures = 0
    } catch (error) {
      if (isProblem(error) && [401, 403, 404].includes(error.status)) {
        patchRun(id, { state: 'failed', error: errorOf(error) })
        endLive(id)
        break
      }
      patchLive(id, { isReconnecting: true })
      await pause(RECONNECT_MS[Math.min(failures++, RECONNECT_MS.length - 1)]!)
    }
  }
  following.delete(id)
}

export const errorOf = (error: Problem) => ({ message: error.message, code: error.code, requestId: error.requestId })

const LINKS_MS = 50 * 60_000
/** Signs the links of a finished run again if they may have expired. */
export async function renewLinks(run: Run): Promise<void> {
  if (run.state !== 'succeeded' || !run.job || Date.now() - run.linked < LINKS_MS) return
  try {
    const job = await call<JobView>('GET', `/v1/jobs/${run.job}`)
    patchRun(run.id, { images: await imagesOf(job, run.images), linked: Date.now() })
  } catch (error) {
    if (isProblem(error) && error.status === 404)
      patchRun(run.id, { images: run.images.map((image) => ({ ...image, url: null })), linked: Date.now() })
  }
}
