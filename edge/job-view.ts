// A job as its owner reads it.
import type { Env } from './env.ts'
import { costOf, decisionOf, type JobRecord, type StoredImage, warningsOf } from './job-record.ts'
import { resultUrl } from './results.ts'
import { gpuState } from './warm.ts'

const unixSeconds = (milliseconds: number | null) => (milliseconds === null ? null : Math.floor(milliseconds / 1000))

/** The job resource. Images are told once all of them are there; links begin with `origin` and end with the key `asking`. */
export async function viewOf(env: Env, origin: string, job: JobRecord, asking: string) {
  const image = async (image: StoredImage) => {
    const { key: _, ...facts } = image
    return {
      ...facts,
      url: await resultUrl(env, origin, job.id, image, undefined, asking === job.keyId ? null : asking),
    }
  }
  return {
    id: job.id,
    object: 'job',
    name: job.name,
    state: job.state,
    created: unixSeconds(job.created),
    finished: unixSeconds(job.finished),
    attempt: job.attempt,
    progress: job.progress,
    gpu: job.waiting ? await gpuState(env, job.decision.endpoint) : null,
    cancel_requested: job.cancelRequested,
    ...decisionOf(job),
    size: `${job.request.width}x${job.request.height}`,
    images: job.state === 'succeeded' ? await Promise.all(job.images.map(image)) : [],
    warnings: warningsOf(job),
    timings: job.timings,
    error: job.error,
    price_microdollars: costOf(job),
  }
}

/** `Server-Timing`: the wait for a GPU, then the GPU function's own times, then the whole, in milliseconds. */
export function serverTiming({ created, accepted, finished, timings }: JobRecord): Record<string, string> {
  const seconds: [string, number][] = [
    ...(accepted === null ? [] : [['wait', (accepted - created) / 1000] as [string, number]]),
    ...Object.entries(timings ?? {}).filter(([name]) => name !== 'total'),
    ...(finished === null ? [] : [['total', (finished - created) / 1000] as [string, number]]),
  ]
  if (seconds.length === 0) return {}
  return { 'server-timing': seconds.map(([name, value]) => `${name};dur=${Math.round(value * 1000)}`).join(', ') }
}
