// Crash campaign inside workerd: individual job objects and accounts are evicted, reset and created twice while the
// GPU fails. The campaign in infra/campaign/ kills whole processes instead.
import { abortAllDurableObjects, evictDurableObject, runDurableObjectAlarm } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, test, vi } from 'vitest'
import type { JobSpec } from '../../../edge/accounts/job-spec.ts'
import { chargeOf, isOver } from '../../../edge/jobs/record.ts'
import { type Random, randomOf } from '../../../infra/command/random.ts'
import { type Caller, filesOf, newCaller } from '../support/client.ts'
import {
  type Behavior,
  createAccepted,
  createImage,
  createStarted,
  fakeGpu,
  refuses,
  stream,
  unreachable,
  works,
} from '../support/fake-gpu.ts'
import { jobOf, reservationOf, reserveJob, reset, stopsHalfWay } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const JOBS = 80
const GPU: Record<string, [share: number, behavior: Behavior]> = {
  works: [12, works],
  loading: [2, refuses(503, 'loading')],
  full: [2, refuses(429, 'queue_full')],
  unreachable: [1, unreachable],
  silent: [1, stopsHalfWay],
  cut: [2, async (seen) => stream([createAccepted(seen), createStarted(seen), ...(await createImage(seen, 0))], 'cut')],
  spoilt: [
    1,
    async (seen) =>
      stream([createAccepted(seen), createStarted(seen), ...(await createImage(seen, 0, { bytes: 4999 }))]),
  ],
}
const SHARES = Object.fromEntries(Object.entries(GPU).map(([name, [share]]) => [name, share]))

/** Faults to inject into a job. Errors are ignored, because a fault may no longer apply or may be interrupted by another. */
const FAULTS: Record<string, (spec: JobSpec) => unknown> = {
  evict: (spec) => evictDurableObject(jobOf(spec)),
  'evict the account': ({ account }) => evictDurableObject(env.ACCOUNT.getByName(account)),
  'abort everything': () => abortAllDurableObjects(),
  'reset the job': (spec) => reset(jobOf(spec)),
  'reset the account': ({ account }) => reset(env.ACCOUNT.getByName(account)),
  'create again': (spec) => jobOf(spec).create(reservationOf(spec)),
  'create again with another price': (spec) => jobOf(spec).create(reservationOf({ ...spec, price: 1_000_000 })),
  'wake the watchdog': (spec) => runDurableObjectAlarm(jobOf(spec)),
  'wake the account': ({ account }) => runDurableObjectAlarm(env.ACCOUNT.getByName(account)),
}
const FAULT_SHARES = { ...Object.fromEntries(Object.keys(FAULTS).map((fault) => [fault, 6])), 'abort everything': 1 }

/** Injects faults into random jobs until all jobs have ended; returns the count of each fault. */
async function strike(specs: readonly JobSpec[], random: Random, signal: AbortSignal): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}
  const open = new Set(specs)
  for (let moment = 0; open.size > 0 && !signal.aborted; moment++) {
    const spec = [...open][random.between(0, open.size - 1)]!
    // Every third fault is a watchdog alarm, so that the jobs make progress and the campaign ends.
    const fault = moment % 3 === 0 ? 'wake the watchdog' : random.pick(FAULT_SHARES)
    counts[fault] = (counts[fault] ?? 0) + 1
    Promise.resolve(FAULTS[fault]!(spec)).catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, random.between(0, 20)))
    const job = await jobOf(spec)
      .view()
      .catch(() => null)
    if (job && isOver(job)) open.delete(spec)
  }
  return counts
}

test('despite injected faults, each job ends once, is charged once and keeps its images', async ({
  expect,
  signal,
}) => {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0]!
  const random = randomOf(seed, 'blows')
  const gpu = randomOf(seed, 'gpu')
  fakeGpu((seen) => GPU[gpu.pick(SHARES)]![1](seen))
  const callers: Caller[] = await Promise.all([newCaller(), newCaller()])
  const specs = await Promise.all(Array.from({ length: JOBS }, (_, index) => reserveJob(callers[index % 2]!)))
  for (const spec of specs) Promise.resolve(jobOf(spec).create(reservationOf(spec))).catch(() => {})
  const faults = await strike(specs, random, signal)
  const jobs = await Promise.all(specs.map(async (spec) => (await jobOf(spec).view())!))
  for (const { id, account, price } of jobs)
    expect((await env.ACCOUNT.getByName(account).entry(id))?.amount).toBe(price)
  const states = Object.groupBy(jobs, ({ state }) => state)
  const count = ({ length = 0 }: readonly unknown[] = []) => length
  console.log(`seed ${seed}:`, { succeeded: count(states.succeeded), failed: count(states.failed), ...faults })
  expect(count(states.succeeded) + count(states.failed), `seed ${seed}`).toBe(JOBS)
  for (const caller of callers) {
    const own = jobs.filter(({ account }) => account === caller.account)
    const captured = own.reduce((sum, job) => sum + chargeOf(job), 0)
    const { kept, summed } = await env.ACCOUNT.getByName(caller.account).audit()
    expect({ seed, kept, summed }).toEqual({
      seed,
      kept: { credited: 0, captured, reserved: 0, open: 0 },
      summed: kept,
    })
    const files = new Set(await filesOf(caller))
    const reported = own.flatMap(({ state, images }) => (state === 'succeeded' ? images : []))
    expect(reported.filter(({ key }) => !files.has(key))).toEqual([])
    expect(reported.length).toBe(2 * own.filter(({ state }) => state === 'succeeded').length)
  }
})
