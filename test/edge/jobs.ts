// Jobs made straight in the ledger and the job object, without a request.
import { env } from 'cloudflare:workers'
import { vi } from 'vitest'
import { isOver, type JobRecord, type JobSpec, newJobId } from '../../edge/job-record.ts'
import { checkKey } from '../../edge/keys.ts'
import { type Caller, ORIGIN } from './client.ts'
import { accepted, image, type Seen, started, stream } from './fake-gpu.ts'

export const PRICE = 1234
export const jobOf = ({ id }: Pick<JobSpec, 'id'>) => env.JOB.getByName(id)

const WORK = { model: 'tiny', tier: 'fp8', width: 64, height: 64, steps: 4 } as const
const REQUEST = {
  ...WORK,
  ...{ prompt: 'a cat', negative_prompt: '', guidance_scale: 1, seed: 5, count: 2 },
  ...({ output_format: 'png', output_quality: 90, text_convention: 'diffusers' } as const),
}
const DECISION = { ...WORK, route: 'turbo', endpoint: 'default', guidanceScale: 1, reason: 'A test.' } as const

/** A job of two images whose price is reserved and which does not exist yet. */
export async function reserved(caller: Caller): Promise<JobSpec> {
  const spec: JobSpec = {
    ...{ id: newJobId(), account: caller.account, keyId: caller.keyId, created: Date.now(), price: PRICE },
    ...{ name: null, fingerprint: '', origin: ORIGIN, webhook: null, request: REQUEST, decision: DECISION },
  }
  const admission = await env.ACCOUNT.getByName(caller.account).admit({
    credential: (await checkKey(env.KEY_PEPPER, caller.key))!,
    ...{ job: spec.id, tier: WORK.tier, price: PRICE, idempotency: null },
  })
  if (admission.kind !== 'admitted') throw new Error(admission.kind)
  return spec
}

/** The same, which exists and which nobody drives yet. */
export async function created(caller: Caller): Promise<JobSpec> {
  const spec = await reserved(caller)
  await jobOf(spec).create(spec)
  return spec
}

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
