// Fair shares of an endpoint: one account's flood waits in its own line, not in front of another account's job.
import { runDurableObjectAlarm } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { afterEach, describe, test, vi } from 'vitest'
import { ActiveAccounts, readSlots, Shares } from '../../../edge/accounts/slots.ts'
import { JobDO } from '../../../edge/jobs/job.ts'
import { accountOf, rows } from '../support/admissions.ts'
import { type Caller, generate, generatedOf, jobIn, newCaller, send } from '../support/client.ts'
import { accepted, type Behaviour, fakeGpu, image, line, started, timings, works } from '../support/fake-gpu.ts'
import { jobOf, over, reserved, reset } from '../support/jobs.ts'

const before = env.GPU_SLOTS
afterEach(() => {
  env.GPU_SLOTS = before
  vi.restoreAllMocks()
})

/** A GPU that ends jobs only when the test says so, in the order of their arrival. */
function heldGpu() {
  const held: (() => void)[] = []
  const behaviour: Behaviour = async (seen) => {
    const parts = [accepted(seen), started(seen)]
    const end = [...(await image(seen, 0)), line({ type: 'succeeded', images: 1, timings })]
    let open = false
    held.push(() => {
      open = true
    })
    const pull = async (controller: ReadableStreamDefaultController<Uint8Array>) => {
      const part = parts.shift()
      if (part) return controller.enqueue(part)
      if (!open) {
        await new Promise((resolve) => setTimeout(resolve, 10))
        return controller.enqueue(line({ type: 'heartbeat' }))
      }
      for (const last of end) controller.enqueue(last)
      controller.close()
    }
    return new Response(new ReadableStream({ pull }), { headers: { 'content-type': 'application/x-ndjson' } })
  }
  return { behaviour, finishNext: () => held.shift()!() }
}

const submit = async (caller: Caller) => jobIn(await send('POST', '/v1/jobs', caller, { prompt: 'a cat' }))
const granted = async (caller: Caller) =>
  (await rows(caller, "SELECT job FROM ledger WHERE state = 'reserved' AND granted = 1")).length

describe('with two slots', () => {
  test('a flood of one account leaves room for the job of another', async ({ expect }) => {
    env.GPU_SLOTS = '2'
    const [flooder, other] = [await newCaller(), await newCaller()]
    const { behaviour, finishNext } = heldGpu()
    const calls = fakeGpu(behaviour)
    const flood = await Promise.all(Array.from({ length: 10 }, () => submit(flooder)))
    await vi.waitFor(() => expect(calls).toHaveLength(2))
    const job = await submit(other)
    await vi.waitFor(() => expect(calls).toHaveLength(3))
    expect(calls[2]!.job).toBe(job.id)
    expect(await granted(flooder)).toBe(2)
    expect((await jobOf(flood[9]!).view())?.state).toBe('queued')
    // Each ended job makes room for the next that waits, until all are done.
    for (let ended = 0; ended < 11; ended++) {
      await vi.waitFor(() => expect(calls.length).toBeGreaterThan(ended))
      finishNext()
    }
    for (const each of [...flood, job]) expect((await over(each, 20_000)).state).toBe('succeeded')
    expect(await accountOf(flooder).audit()).toMatchObject({ kept: { open: 0 }, summed: { open: 0 } })
  })

  test('a job whose message was lost asks for its slot', async ({ expect }) => {
    env.GPU_SLOTS = '1'
    const caller = await newCaller()
    const { behaviour, finishNext } = heldGpu()
    const calls = fakeGpu(behaviour)
    const first = await submit(caller)
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    const second = await submit(caller)
    const lost = vi.spyOn(JobDO.prototype, 'proceed').mockRejectedValue(new Error('lost'))
    finishNext()
    await over(first)
    await vi.waitFor(() => expect(lost).toHaveBeenCalled())
    await vi.waitFor(() => expect(calls).toHaveLength(2), { timeout: 20_000 })
    finishNext()
    expect((await over(second)).state).toBe('succeeded')
  })

  test('a canceled job that waited frees its place', async ({ expect }) => {
    env.GPU_SLOTS = '1'
    const caller = await newCaller()
    const { behaviour, finishNext } = heldGpu()
    const calls = fakeGpu(behaviour)
    await submit(caller)
    await vi.waitFor(() => expect(calls).toHaveLength(1))
    const waiting = await submit(caller)
    const response = await send('DELETE', `/v1/jobs/${waiting.id}`, caller)
    expect([response.status, (await jobIn(response)).state]).toEqual([200, 'canceled'])
    finishNext()
    const next = generate(caller, { prompt: 'a cat' })
    await vi.waitFor(() => expect(calls).toHaveLength(2))
    finishNext()
    expect((await generatedOf(await next)).data).toHaveLength(1)
  })
})

test('active accounts share the slots equally, at least one each, whatever comes when', ({ expect }) => {
  const visits = fc.array(fc.record({ account: fc.nat(5), after: fc.nat(20_000) }), { minLength: 1, maxLength: 50 })
  const property = fc.property(visits, fc.integer({ min: 1, max: 16 }), (list, slots) => {
    const accounts = new ActiveAccounts()
    const seen = new Map<number, number>()
    let now = 0
    for (const { account, after } of list) {
      now += after
      const share = accounts.shareOf(String(account), slots, now)
      seen.set(account, now)
      const active = [...seen.values()].filter((at) => now - at <= 30_000).length
      expect(share).toBe(Math.max(1, Math.floor(slots / active)))
    }
  })
  fc.assert(property)
})

test('an account asks for its share once in three seconds, and has one until it is answered', ({ expect }) => {
  const shares = new Shares()
  expect([shares.of('a'), shares.isStale('a', 0), shares.isStale('a', 100)]).toEqual([1, true, false])
  shares.set('a', 4, 200)
  expect([shares.of('a'), shares.isStale('a', 3_100), shares.isStale('a', 3_200)]).toEqual([4, false, true])
  expect([shares.of('a'), shares.isStale('b', 0)]).toEqual([4, true])
})

test.for(['0', '1.5', 'many', ''])('GPU_SLOTS is refused by name: "%s"', (given, { expect }) => {
  expect(() => readSlots({ GPU_SLOTS: given })).toThrow(`GPU_SLOTS is "${given}"`)
})

test('a reservation without a job gives its slot to the job that waits', async ({ expect }) => {
  env.GPU_SLOTS = '1'
  const caller = await newCaller()
  const calls = fakeGpu(works)
  const orphan = await reserved(caller)
  const waiting = await submit(caller)
  expect((await jobOf(waiting).view())?.state).toBe('queued')
  await rows(caller, `UPDATE ledger SET reserved = reserved - 3600000 WHERE job = '${orphan.id}'`)
  await runDurableObjectAlarm(accountOf(caller))
  expect((await over(waiting)).state).toBe('succeeded')
  expect(calls).toHaveLength(1)
})

test('the share of an account survives a reset of its object', async ({ expect }) => {
  env.GPU_SLOTS = '4'
  // Accounts of other tests no longer count as active.
  await reset(env.WARM.getByName('default'))
  const caller = await newCaller()
  let [running, most] = [0, 0]
  fakeGpu(async (seen) => {
    most = Math.max(most, ++running)
    await new Promise((resolve) => setTimeout(resolve, 150))
    running--
    return works(seen)
  })
  const jobs = await Promise.all(Array.from({ length: 14 }, () => submit(caller)))
  await vi.waitFor(() => expect(most).toBe(4))
  await reset(accountOf(caller))
  // From here on `most` counts jobs that start beside others.
  most = 0
  for (const job of jobs) await over(job, 30_000)
  expect(most).toBeGreaterThan(1)
})
