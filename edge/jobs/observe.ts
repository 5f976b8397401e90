// Records each finished job for operations: one log line and one data point in Analytics Engine.

import { imageOptionsOf } from '#contract'
import { configOf } from '../config.ts'
import { log } from '../platform/log.ts'
import type { Observation } from '../routing/observation.ts'
import { countMegapixelSteps } from '../routing/price.ts'
import { projectJob } from './projection.ts'
import type { JobRecord } from './record.ts'

/** Columns of a data point, in order: `blob1` … and `double1` … of the dataset octet_jobs. Durations are the GPU function's own, in seconds. */
export const POINT = {
  blobs: ['state', 'error', 'route', 'tier', 'model', 'endpoint', 'device'],
  doubles: [
    ...(['images', 'steps', 'megapixels', 'attempts', 'price_microdollars', 'wall_seconds'] as const),
    ...(['queue', 'load', 'encode', 'denoise', 'decode', 'total'] as const),
  ],
} as const

type Point = { [K in (typeof POINT.blobs)[number]]: string | null } & {
  [K in (typeof POINT.doubles)[number]]: number
}

const NO_TIMES = { queue: 0, load: 0, encode: 0, denoise: 0, decode: 0, total: 0 }

function pointOf(job: JobRecord): Point {
  const { state, error, route, tier, model, steps, attempt, timings, price_microdollars } = projectJob(job)
  const { decision, ran, request, created, finished } = job
  return {
    ...{ state, route, tier, model, steps, price_microdollars, attempts: attempt },
    endpoint: job.endpoint ?? decision.endpoint,
    error: error?.code ?? null,
    device: ran?.device ?? null,
    images: request.count,
    megapixels: (request.width * request.height) / 1e6,
    wall_seconds: ((finished ?? created) - created) / 1000,
    ...(timings ?? NO_TIMES),
  }
}

/** Records a finished job. The prompt is included only if OCTET_LOG_PROMPTS is "true". */
export function observeJob(env: Env, job: JobRecord): void {
  const { id, account, keyId, request } = job
  const point = pointOf(job)
  const { prompt, negative_prompt } = request
  const prompts = configOf(env).logPrompts ? { prompt, negative_prompt } : {}
  log('info', 'a job finished', { job: id, account, key: keyId, ...point, ...prompts })
  env.ANALYTICS.writeDataPoint({
    indexes: [account],
    blobs: POINT.blobs.map((name) => point[name]),
    doubles: POINT.doubles.map((name) => point[name]),
  })
}

/** The observation from a succeeded job; null for any other job. */
export function measure({
  state,
  decision,
  endpoint: ran,
  request,
  created,
  finished,
  timings,
}: JobRecord): Observation | null {
  if (state !== 'succeeded' || !timings || finished === null) return null
  const { model, tier } = decision
  const endpoint = ran ?? decision.endpoint
  const run = timings.encode + timings.denoise + timings.decode
  const waited = Math.max(0, (finished - created) / 1000 - timings.load - run)
  const megapixel_steps = countMegapixelSteps({ ...decision, ...imageOptionsOf(request), count: request.count })
  return { endpoint, model, tier, created, finished, megapixel_steps, waited, load: timings.load, run }
}
