// The slot of a job at its endpoint (gpu/slot-queue.ts), as its job object requests, renews and releases it.
import type { EndpointDO } from '../gpu/endpoint-object.ts'
import type { Terms } from '../gpu/slot-queue.ts'
import { objectOf } from '../platform/durable-objects.ts'
import { log } from '../platform/log.ts'
import type { JobRecord } from './record.ts'

type Job = Pick<JobRecord, 'id' | 'account' | 'decision' | 'created'>

const termsOf = ({ account, decision, created }: Job): Terms => ({
  account,
  interactive: decision.route === 'turbo',
  created,
})

/** Calls the EndpointDO that queues the job, even if a fallback endpoint runs it. */
export class JobSlot {
  readonly #env: Env
  /** Resolves at the end of the last call. */
  #calls: Promise<unknown> = Promise.resolve()
  /** Whether the attempt in progress still needs the slot. */
  #isNeeded = false

  constructor(env: Env) {
    this.#env = env
  }

  /** Marks the slot as needed by an attempt. */
  use(): void {
    this.#isNeeded = true
  }

  /** Requests the slot, or renews the job's place in the queue. Returns whether the job has the slot. */
  async request(job: Job): Promise<boolean> {
    return (await this.#call(job, (endpoint) => endpoint.requestSlot(job.id, termsOf(job)))) ?? false
  }

  /** Renews the slot while it is needed. */
  async renew(job: Job): Promise<void> {
    await this.#call(job, (endpoint) => (this.#isNeeded ? endpoint.renewSlot(job.id, termsOf(job)) : null))
  }

  /** Releases the slot if it is needed. */
  async release(job: Job): Promise<void> {
    if (this.#isNeeded) await this.leave(job)
  }

  /** Leaves the endpoint's queue, or the slot. */
  async leave(job: Job): Promise<void> {
    this.#isNeeded = false
    await this.#call(job, (endpoint) => endpoint.releaseSlot(job.id))
  }

  /**
   * Makes one call at a time: a release that overtook a request or a renewal would leave the slot taken. Null on failure, after which the
   * job's alarm or the expiry of the slot resolves the state.
   */
  #call<R>({ id, decision }: Job, call: (endpoint: DurableObjectStub<EndpointDO>) => Promise<R> | null) {
    const result = this.#calls
      .then(() => call(objectOf(this.#env.ENDPOINT, decision.endpoint)))
      .catch((cause: unknown) => {
        log('warn', 'the slot of a job could not be updated', { job: id, cause })
        return null
      })
    this.#calls = result
    return result
  }
}
