// Creates jobs directly in the ledger and the job object, without a request.

import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { vi } from 'vitest'
import type { JobSpec } from '../../../edge/accounts/job-spec.ts'
import type { Reservation } from '../../../edge/accounts/ledger.ts'
import { checkKey } from '../../../edge/auth/keys.ts'
import { newJobId } from '../../../edge/jobs/job-id.ts'
import { isOver, type JobRecord } from '../../../edge/jobs/record.ts'
import { type Caller, ORIGIN } from './client.ts'
import { peppers } from './config.ts'
import { createAccepted, createImage, createStarted, type SeenRequest, stream } from './fake-gpu.ts'

export const PRICE = 1234
export const BASE_PRICE = 200
export const jobOf = ({ id }: Pick<JobSpec, 'id'>) => env.JOB.getByName(id)

const WORK = { model: 'tiny', tier: 'fp8', width: 64, height: 64, steps: 4 } as const
const REQUEST = {
  ...WORK,
  ...{ prompt: 'a cat', negative_prompt: '', guidance_scale: 1, seed: 5, count: 2 },
  ...({ output_format: 'png', output_quality: 90, text_convention: 'diffusers' } as const),
}
const DECISION = {
  ...WORK,
  route: 'turbo',
  endpoint: 'default',
  guidanceScale: 1,
  sampler: 'euler',
  reason: 'A test.',
} as const

/** A job of two images at PRICE. */
export const specOf = ({ account, keyId }: Pick<Caller, 'account' | 'keyId'>, id = newJobId()): JobSpec => ({
  ...{
    id,
    account,
    keyId,
    token: null,
    dialect: null,
    created: Date.now(),
    price: PRICE,
    basePrice: BASE_PRICE,
    retentionDays: 30,
  },
  ...{ name: null, fingerprint: `asked ${id}`, digest: `pixels ${id}`, origin: ORIGIN, webhook: null },
  ...{ request: REQUEST, decision: DECISION },
})

/** The reservation of a job. */
export const reservationOf = (spec: JobSpec): Reservation => ({
  ...{ job: spec.id, fingerprint: spec.fingerprint, price: spec.price, reservedAt: Date.now(), spec },
})

/** A reservation whose job does not exist yet. */
export async function reserveJob(caller: Caller): Promise<JobSpec> {
  const spec = specOf(caller)
  const credential = (await checkKey(peppers, caller.key))!
  const request = { credential, spec, idempotencyKey: null, retried: false, reuse: false }
  const admission = await env.ACCOUNT.getByName(caller.account).admit(request)
  if (admission.kind !== 'admitted') throw new Error(admission.kind)
  return spec
}

/** A reservation with a running job. */
export async function createRunningJob(caller: Caller): Promise<JobSpec> {
  const spec = await reserveJob(caller)
  await jobOf(spec).create(reservationOf(spec))
  return spec
}

/** The charge for a job of `specOf` that is canceled after some of its steps. */
export const costOfSteps = (steps: number) => BASE_PRICE + Math.floor(((PRICE - BASE_PRICE) * steps) / 8)

/** Waits until the job has ended and is settled and announced. */
export const waitForEnd = (spec: Pick<JobSpec, 'id'>, timeout = 10_000): Promise<JobRecord> =>
  vi.waitFor(
    async () => {
      const job = await jobOf(spec).view()
      if (!job || !isOver(job)) throw new Error(`the job is ${job?.state} at attempt ${job?.attempt}, not over`)
      return job
    },
    { timeout },
  )

/** A job of the caller that has ended, as JobDO would announce it. */
export function createFinalJob({ account, keyId }: Caller, change: Partial<JobRecord> = {}): JobRecord {
  const id = newJobId()
  const key = `results/30d/${account}/${id}/0.png`
  const expires_at = Math.floor(Date.now() / 1000) + 3600
  const image = {
    image: 0,
    seed: 5,
    width: 64,
    height: 64,
    content_type: 'image/png',
    bytes: 5,
    sha256: 'a'.repeat(64),
    key,
    expires_at,
    ...{ package: 'a'.repeat(64), device: 'fake' },
  }
  const work = {
    model: 'tiny',
    tier: 'fp8',
    prompt: 'a secret prompt',
    negative_prompt: '',
    width: 64,
    height: 64,
  } as const
  const output = { seed: 5, count: 1, output_format: 'png', output_quality: 90, text_convention: 'diffusers' } as const
  const decision = {
    route: 'turbo',
    tier: 'fp8',
    model: 'tiny',
    endpoint: 'default',
    steps: 4,
    guidanceScale: 1,
    sampler: 'euler',
  } as const
  return {
    ...{
      id,
      account,
      keyId,
      name: null,
      fingerprint: '',
      origin: 'https://octet.test',
      webhook: null,
      created: Date.now(),
      ...{
        token: null,
        dialect: null,
        basePrice: 0,
        digest: '',
        nextAt: 0,
        granted: true,
        faults: 0,
        retentionDays: 30 as const,
      },
    },
    request: { ...work, ...output, steps: 4, guidance_scale: 1 },
    decision: { ...decision, width: 64, height: 64, reason: 'A test.' },
    ...{
      price: 100,
      state: 'succeeded',
      attempt: 1,
      progress: null,
      images: [image],
      warnings: [],
      timings: null,
      ran: null,
      endpoint: null,
    },
    ...{ error: null, finished: Date.now(), settled: true, announced: false, waiting: null, accepted: null },
    ...{ cancelRequested: false, stepsDone: 0 },
    ...change,
  }
}

/** Accepts the job, sends the first of two images, then stays silent. */
export const stopsHalfWay = async (seen: SeenRequest) =>
  stream([createAccepted(seen), createStarted(seen), ...(await createImage(seen, 0))], 'silence')

/** Resets an object as a deploy does: calls in flight fail, and its memory is lost. */
export async function reset<T extends Rpc.DurableObjectBranded>(object: DurableObjectStub<T>): Promise<void> {
  const abort = (_: unknown, ctx: DurableObjectState) => ctx.abort('Durable Object reset because its code was updated.')
  await runInDurableObject(object as never, abort as never).catch(() => {})
}
