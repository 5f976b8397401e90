// Jobs made straight in the ledger and the job object, without a request.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { vi } from 'vitest'
import type { Reservation } from '../../edge/account-ledger.ts'
import { isOver, type JobRecord, type JobSpec, newJobId } from '../../edge/job-record.ts'
import { checkKey } from '../../edge/keys.ts'
import { type Caller, ORIGIN } from './client.ts'
import { accepted, image, type Seen, started, stream } from './fake-gpu.ts'

export const PRICE = 1234
export const BASE_PRICE = 200
export const jobOf = ({ id }: Pick<JobSpec, 'id'>) => env.JOB.getByName(id)

const WORK = { model: 'tiny', tier: 'fp8', width: 64, height: 64, steps: 4 } as const
const REQUEST = {
  ...WORK,
  ...{ prompt: 'a cat', negative_prompt: '', guidance_scale: 1, seed: 5, count: 2 },
  ...({ output_format: 'png', output_quality: 90, text_convention: 'diffusers' } as const),
}
const DECISION = { ...WORK, route: 'turbo', endpoint: 'default', guidanceScale: 1, reason: 'A test.' } as const

/** A job of two images at PRICE. */
export const specOf = ({ account, keyId }: Pick<Caller, 'account' | 'keyId'>, id = newJobId()): JobSpec => ({
  ...{ id, account, keyId, token: null, created: Date.now(), price: PRICE, basePrice: BASE_PRICE, retentionDays: 30 },
  ...{ name: null, fingerprint: `asked ${id}`, digest: `pixels ${id}`, origin: ORIGIN, webhook: null },
  ...{ request: REQUEST, decision: DECISION },
})

/** The reservation of a job that has a slot. */
export const reservationOf = (spec: JobSpec): Reservation => ({
  ...{ job: spec.id, fingerprint: spec.fingerprint, price: spec.price, reservedAt: Date.now(), granted: true, spec },
})

/** A job whose price is reserved and which does not exist yet. */
export async function reserved(caller: Caller): Promise<JobSpec> {
  const spec = specOf(caller)
  const credential = (await checkKey(env.KEY_PEPPER, caller.key))!
  const request = { credential, spec, idempotencyKey: null, retried: false, reuse: false }
  const admission = await env.ACCOUNT.getByName(caller.account).admit(request)
  if (admission.kind !== 'admitted') throw new Error(admission.kind)
  return spec
}

/** The same, which exists and runs. */
export async function created(caller: Caller): Promise<JobSpec> {
  const spec = await reserved(caller)
  await jobOf(spec).create(reservationOf(spec))
  return spec
}

/** What a job of `specOf` costs when it is canceled after some of its steps. */
export const costOfSteps = (steps: number) => BASE_PRICE + Math.floor(((PRICE - BASE_PRICE) * steps) / 8)

/** The job once nothing is left to do of it: ended, settled, announced. */
export const over = (spec: Pick<JobSpec, 'id'>, timeout = 10_000): Promise<JobRecord> =>
  vi.waitFor(
    async () => {
      const job = await jobOf(spec).view()
      if (!job || !isOver(job)) throw new Error(`the job is ${job?.state} at attempt ${job?.attempt}, not over`)
      return job
    },
    { timeout },
  )

/** Accepts, makes the first of two images, then says no more. */
export const stopsHalfWay = async (seen: Seen) =>
  stream([accepted(seen), started(seen), ...(await image(seen, 0))], 'silence')

/** Resets an object as a deploy does: calls in flight fail, and its memory is lost. */
export async function reset<T extends Rpc.DurableObjectBranded>(object: DurableObjectStub<T>): Promise<void> {
  const abort = (_: unknown, ctx: DurableObjectState) => ctx.abort('Durable Object reset because its code was updated.')
  await runInDurableObject(object as never, abort as never).catch(() => {})
}
