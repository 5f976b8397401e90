// Exactly-once effects: despite duplicates, crashes and takeovers, a job ends once, is stored once and is charged once.
import { abortAllDurableObjects, runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { decodeJwt } from 'jose'
import { afterEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { JobDO } from '../../../edge/jobs/job.ts'
import type { ReceiptClaims } from '../../../edge/results/receipt.ts'
import { filesOf, ledgerOf, newCaller } from '../support/client.ts'
import {
  createAccepted,
  createImage,
  createStarted,
  encodeLine,
  fakeGpu,
  stream,
  timings,
  works,
} from '../support/fake-gpu.ts'
import { createRunningJob, jobOf, PRICE, reservationOf, reserveJob, stopsHalfWay, waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

describe('a job that is created twice', () => {
  test('runs once: one GPU request, each image once, one capture', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await reserveJob(caller)
    const calls = fakeGpu(works)
    const create = () => jobOf(spec).create(reservationOf(spec))
    const run = () => jobOf(spec).run(reservationOf(spec), 'a caller')
    await Promise.all([create(), run(), run(), create()])
    expect((await jobOf(spec).ended()).state).toBe('succeeded')
    expect(calls).toHaveLength(1)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })

  test('after its end is unchanged by a second request', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(works)
    const spec = await createRunningJob(caller)
    const first = await waitForEnd(spec)
    const log = await jobOf(spec).events()
    expect(await jobOf(spec).create(reservationOf({ ...spec, price: 1 }))).toEqual(first)
    expect(await jobOf(spec).ended()).toEqual(first)
    expect(await jobOf(spec).events()).toEqual(log)
    expect(calls).toHaveLength(1)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })

  test('is not created for a reservation that is about to be released', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await reserveJob(caller)
    expect(await jobOf(spec).create({ ...reservationOf(spec), reservedAt: Date.now() - 10 * 60_000 })).toBeNull()
    expect(await jobOf(spec).view()).toBeNull()
  })
})

describe('images are written once', () => {
  test('an image stored by an earlier attempt is kept, even if the next attempt produces different bytes', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const spec = await reserveJob(caller)
    const key = `results/30d/${caller.account}/${spec.id}/0.png`
    const made = { package: 'b'.repeat(64), device: 'another' }
    await env.RESULTS.put(key, 'of the earlier attempt', { customMetadata: { sha256: 'e'.repeat(64), ...made } })
    fakeGpu(works)
    const { images, ran } = (await jobOf(spec).run(reservationOf(spec), 'a caller'))!
    expect(images[0]).toMatchObject({ key, bytes: 22, sha256: 'e'.repeat(64), ...made })
    expect(images[1]).toMatchObject(ran!)
    const receipts = images.map(({ receipt }) => decodeJwt<ReceiptClaims>(receipt!))
    expect(receipts[0]).toMatchObject(made)
    expect(receipts[1]).toMatchObject(ran!)
    expect(await (await env.RESULTS.get(key))!.text()).toBe('of the earlier attempt')
  })
})

describe('a job whose object is reset during the run', () => {
  test('continues immediately, and is charged once', async ({ expect }) => {
    const caller = await newCaller()
    const calls = fakeGpu(stopsHalfWay, works)
    const spec = await createRunningJob(caller)
    await vi.waitFor(async () => expect((await jobOf(spec).view())?.images).toHaveLength(1))
    await abortAllDurableObjects()
    expect(await waitForEnd(spec)).toMatchObject({ state: 'succeeded', attempt: 2, settled: true })
    expect(calls.map(({ request }) => request.attempt)).toEqual([1, 2])
    expect(await filesOf(caller)).toHaveLength(2)
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })

  test('between its end and the settlement keeps its image, and is settled by the alarm', async ({ expect }) => {
    const caller = await newCaller()
    const spec = await reserveJob(caller)
    fakeGpu(works)
    const settle = vi.spyOn(AccountDO.prototype, 'settle').mockImplementation(() => {
      throw new Error('the account is broken')
    })
    expect(await jobOf(spec).run(reservationOf(spec), 'a caller')).toMatchObject({ state: 'succeeded', settled: false })
    settle.mockRestore()
    expect(await ledgerOf(caller)).toEqual({ reserved: PRICE, captured: 0 })
    await runDurableObjectAlarm(jobOf(spec))
    expect(await jobOf(spec).view()).toMatchObject({ state: 'succeeded', settled: true })
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })
})

describe('the ledger', () => {
  test('settles an entry once: the first settlement is final', async ({ expect }) => {
    const caller = await newCaller()
    const account = env.ACCOUNT.getByName(caller.account)
    const { id } = await reserveJob(caller)
    expect(await ledgerOf(caller)).toEqual({ reserved: PRICE, captured: 0 })
    expect(await account.settle(id, { outcome: 'captured' })).toMatchObject({ state: 'captured', amount: PRICE })
    expect(await account.settle(id, { outcome: 'captured' })).toMatchObject({ state: 'captured' })
    expect(await account.settle(id, { outcome: 'released' })).toMatchObject({ state: 'captured' })
    expect(await account.settle('job_unknown', { outcome: 'captured' })).toBeNull()
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: PRICE })
  })

  test('releases reservations without a job, and keeps those of open jobs', async ({ expect }) => {
    const caller = await newCaller()
    const account = env.ACCOUNT.getByName(caller.account)
    fakeGpu(stopsHalfWay)
    const [orphan, living] = [await reserveJob(caller), await createRunningJob(caller)]
    await runInDurableObject(account, (_, { storage }) => {
      storage.sql.exec('UPDATE ledger SET reserved = reserved - 3600000')
    })
    expect(await runDurableObjectAlarm(account)).toBe(true)
    expect(await account.entry(orphan.id)).toBeNull()
    expect((await account.entry(living.id))?.state).toBe('reserved')
    // Each settlement sets the alarm, which must not call all jobs of a long queue each time.
    const checked = vi.spyOn(JobDO.prototype, 'preclude')
    expect(await runDurableObjectAlarm(account)).toBe(true)
    expect(checked).not.toHaveBeenCalled()
  })
})

test('a job logs every event of its stream except heartbeats, in order', async ({ expect }) => {
  const spec = await reserveJob(await newCaller())
  fakeGpu(async (seen) => {
    const images = [...(await createImage(seen, 1)), ...(await createImage(seen, 0))]
    return stream([
      createAccepted(seen),
      encodeLine({ type: 'heartbeat' }),
      createStarted(seen),
      ...images,
      encodeLine({ type: 'succeeded', images: 2, timings }),
    ])
  })
  const job = await jobOf(spec).run(reservationOf(spec), 'a caller')
  const log = await jobOf(spec).events()
  expect(log.map(({ event }) => event.type)).toEqual([
    'queued',
    'starting',
    'accepted',
    'started',
    'stored',
    'stored',
    'succeeded',
  ])
  expect((await jobOf(spec).events(log[3]!.seq)).map(({ event }) => event.type)).toEqual([
    'stored',
    'stored',
    'succeeded',
  ])
  expect(job).toMatchObject({ ran: { device: 'fake', package: 'a'.repeat(64) }, progress: null })
})
