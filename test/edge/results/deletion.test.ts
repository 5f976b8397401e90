// Deletion of images by their owner: nothing of them remains.
import { env } from 'cloudflare:workers'
import { afterEach, expect, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { type Caller, fetchWorker, generate, generatedOf, newCaller, readJob, send } from '../support/client.ts'
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
import { createRunningJob, jobOf, waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

const filesOf = async ({ account }: Caller) =>
  (await env.RESULTS.list({ prefix: `results/30d/${account}/` })).objects.map(({ key }) => key)

test('DELETE /v1/jobs/{id}/images deletes the files of failed attempts as well', async () => {
  const caller = await newCaller()
  const failed = encodeLine({ type: 'failed', code: 'invalid_request', message: 'the prompt is too long' })
  fakeGpu(
    async (seen) => stream([createAccepted(seen), createStarted(seen), ...(await createImage(seen, 0))], 'cut'),
    (seen) => stream([createAccepted(seen), createStarted(seen), failed]),
  )
  const job = await readJob(await send('POST', '/v1/jobs', caller, { prompt: 'a cat', n: 2 }))
  expect(await waitForEnd(job)).toMatchObject({ state: 'failed', attempt: 2 })
  expect(await filesOf(caller)).toHaveLength(1)
  expect((await send('DELETE', `/v1/jobs/${job.id}/images`, caller)).status).toBe(204)
  expect(await filesOf(caller)).toEqual([])
})

test('a failed deletion is completed by its repetition', async () => {
  const caller = await newCaller()
  fakeGpu(works)
  const { octet } = await generatedOf(await generate(caller, { prompt: 'a cat' }))
  vi.spyOn(env.RESULTS, 'delete').mockRejectedValueOnce(new Error('R2 is down'))
  const remove = () => send('DELETE', `/v1/results/${octet.job}/0.png`, caller)
  expect((await remove()).status).toBe(500)
  expect((await remove()).status).toBe(204)
  expect(await filesOf(caller)).toEqual([])
  expect((await remove()).status).toBe(404)
})

test('an image that is deleted while its job is being settled has no link in the list of jobs', async () => {
  const caller = await newCaller()
  fakeGpu(works)
  const { settle } = AccountDO.prototype
  let isReceived = false
  vi.spyOn(AccountDO.prototype, 'settle').mockImplementationOnce(async function (this: AccountDO, ...settlement) {
    isReceived = true
    await new Promise((resolve) => setTimeout(resolve, 200))
    return settle.apply(this, settlement)
  })
  const job = await createRunningJob(caller)
  await vi.waitFor(() => expect(isReceived).toBe(true))
  expect((await jobOf(job).view())?.settled).toBe(false)
  expect((await send('DELETE', `/v1/jobs/${job.id}/images`, caller)).status).toBe(204)
  await waitForEnd(job)
  const { data } = (await (await send('GET', '/v1/jobs', caller)).json()) as { data: { images: { url: null }[] }[] }
  expect(data[0]!.images.map(({ url }) => url)).toEqual([null, null])
})

test.for([
  ['all images', (job: string) => `/v1/jobs/${job}/images`, []],
  ['an image', (job: string) => `/v1/results/${job}/0.png`, [1]],
] as const)('with %s, its previews leave the event log', async ([, path, left]) => {
  const caller = await newCaller()
  const preview = (k: number) => [
    encodeLine({ type: 'preview', image: k, step: 1, width: 8, height: 8, content_type: 'image/jpeg', bytes: 3 }),
    new Uint8Array([1, 2, 3]),
  ]
  fakeGpu(async (seen) => {
    const images = await Promise.all([0, 1].map((k) => createImage(seen, k)))
    const ended = encodeLine({ type: 'succeeded', images: 2, timings })
    return stream([createAccepted(seen), createStarted(seen), ...preview(0), ...preview(1), ...images.flat(), ended])
  })
  const job = await readJob(await send('POST', '/v1/jobs', caller, { prompt: 'a cat', n: 2, preview: true }))
  await waitForEnd(job)
  const readPreviews = async () => {
    const events = await (await fetchWorker(`/v1/jobs/${job.id}/events`, { headers: caller.headers })).text()
    return [...events.matchAll(/^data: (.*"type":"preview".*)$/gm)].map(([, data]) => JSON.parse(data!).image)
  }
  expect(await readPreviews()).toEqual([0, 1])
  expect((await send('DELETE', path(job.id), caller)).status).toBe(204)
  expect(await readPreviews()).toEqual(left)
})
