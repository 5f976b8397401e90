// Sends the jobs of a trace to a GPU function in real time, and reads their images.
import { setTimeout as sleep } from 'node:timers/promises'
import { type JobEvent, type JobRequest, PROTOCOL_VERSION } from '../../../gpu-fn/contract.ts'
import { offerJob } from './offer.ts'
import { computePauseMs, type Outcome, type Refusal } from './outcome.ts'
import type { Arrival, JobClass } from './trace.ts'

/** The jobs of each class. */
export type Recipe = Record<JobClass, Pick<JobRequest, 'model' | 'tier' | 'steps' | 'guidance_scale'>>
export type ReplayOptions = {
  url: string
  recipe: Recipe
  size: number
  /** Whether jobs carry their account and class; without them, the GPU function runs them in order of arrival. */
  isFair: boolean
  /** Time in milliseconds after which refused jobs are not submitted again. */
  untilMs?: number | undefined
}
/** `failed`: accepted jobs without an image, with the reason. */
export type ReplayedTrace = Outcome & { failed: string[] }

/** `end`: the last event of an accepted job, or another refusal. */
type Reply = { retryAfterMs: number } | { end: string }

function requestOf({ account, kind, id }: Arrival, { recipe, size, isFair }: ReplayOptions): JobRequest {
  const schedule = isFair
    ? { tenant: account, weight: 1, interactive: kind === 'turbo' }
    : { tenant: 'all', weight: 1, interactive: false }
  return {
    ...{ protocol: PROTOCOL_VERSION, attempt: 1, ...recipe[kind], width: size, height: size, count: 1, seed: 7 },
    ...{ prompt: `a cat, ${id}`, negative_prompt: '', text_convention: 'diffusers' },
    ...{ output_format: 'png', output_quality: 90, schedule },
  }
}

/** Offers a job and waits for its end if it is accepted; `onAccept` is called on acceptance. */
async function offer(url: string, request: JobRequest, onAccept: () => void): Promise<Reply> {
  const offered = await offerJob(url, request)
  if ('retryAfterMs' in offered) return offered
  if ('refusal' in offered) return { end: offered.refusal }
  onAccept()
  const text = Buffer.from(await offered.accepted.arrayBuffer()).toString('latin1')
  // The bytes of an image do not end with a line break.
  return { end: text.slice(text.lastIndexOf('{"type":')) }
}

/** The problem of an ended job; null for an image. */
function problemOf(end: string): string | null {
  try {
    const event: JobEvent = JSON.parse(end)
    return event.type === 'succeeded' && event.images === 1 ? null : end
  } catch {
    return `the reply ends with ${end.slice(-200)}`
  }
}

/** Runs the trace once; resolves when every accepted job has ended. */
export async function replay(trace: readonly Arrival[], options: ReplayOptions): Promise<ReplayedTrace> {
  const { url, untilMs = Number.POSITIVE_INFINITY } = options
  const start = performance.now()
  const readTime = () => performance.now() - start
  const sleepUntil = (at: number) => sleep(Math.max(0, at - readTime()))
  const outcome: ReplayedTrace = { served: [], refusals: [], failed: [], endMs: 0 }
  const run = async (arrival: Arrival) => {
    const { account, kind, id, at: submitted } = arrival
    const [target, request] = [`${url}/jobs/${id}`, requestOf(arrival, options)]
    let refusal: Refusal | undefined
    await sleepUntil(submitted)
    for (;;) {
      const at = readTime()
      const onAccept = () => {
        if (refusal) refusal.accepted = at
      }
      const reply = await offer(target, request, onAccept)
      if ('end' in reply) {
        const problem = problemOf(reply.end)
        if (problem !== null) outcome.failed.push(`${id}: ${problem}`)
        else outcome.served.push({ account, kind, submitted, accepted: at, ended: readTime() })
        return
      }
      if (!refusal) {
        refusal = { at, promised: reply.retryAfterMs, accepted: null }
        outcome.refusals.push(refusal)
      }
      const next = at + computePauseMs(reply.retryAfterMs)
      if (next > untilMs) return
      await sleepUntil(next)
    }
  }
  await Promise.all(trace.map(run))
  return { ...outcome, endMs: readTime() }
}
