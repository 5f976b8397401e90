// Jobs over real sockets: the worker in workerd, the GPU function with the built-in models, callers who leave and readers who follow.
import sharp from 'sharp'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { type Local, startLocal } from '../../infra/local/local.ts'

let local: Local
beforeAll(async () => {
  local = await startLocal()
})
afterAll(() => local.stop())

type Job = {
  id: string
  state: string
  cancel_requested: boolean
  price_microdollars: number
  progress: { step?: number }
}

const call = (path: string, init: RequestInit = {}) =>
  fetch(`${local.url}${path}`, {
    ...init,
    headers: { authorization: `Bearer ${local.key}`, 'content-type': 'application/json' },
  })
const fetchJob = async (path: string) => (await (await call(path)).json()) as Job
const findNewest = async () => ((await (await call('/v1/jobs?limit=1')).json()) as { data: Job[] }).data[0]

/** Of the job below: 200 and 300 for each megapixel-step, guided. */
const PRICE = 200 + Math.ceil(((256 * 256) / 1e6) * 40 * 2 * 300)

/** A job that runs for seconds, whose caller leaves in the middle; returns its id. An equal request would get the result of the earlier job. */
async function leave(seed: number): Promise<string> {
  const before = (await findNewest())?.id
  const caller = new AbortController()
  const body = JSON.stringify({ prompt: 'a red heart', size: '256x256', route: 'full', steps: 40, seed })
  const gone = call('/v1/images/generations', { method: 'POST', body, signal: caller.signal }).catch((error) => error)
  const job = await vi.waitFor(
    async () => {
      const found = await findNewest()
      if (!found || found.id === before) throw new Error('there is no job yet')
      const job = await fetchJob(`/v1/jobs/${found.id}`)
      if (!job.progress?.step) throw new Error('the job does not run yet')
      return job
    },
    { timeout: 20_000 },
  )
  caller.abort()
  expect((await gone).name).toBe('AbortError')
  return job.id
}

const waitForEnd = (id: string) =>
  vi.waitFor(
    async () => {
      const job = await fetchJob(`/v1/jobs/${id}`)
      if (!['succeeded', 'failed', 'canceled'].includes(job.state)) throw new Error(`the job is ${job.state}`)
      return job
    },
    { timeout: 60_000, interval: 100 },
  )

test('a caller who disconnects can fetch the image later', async () => {
  expect(await waitForEnd(await leave(1))).toMatchObject({ state: 'succeeded', cancel_requested: false })
})

test('a running job is canceled at its next step and costs a share', async () => {
  const id = await leave(2)
  expect((await call(`/v1/jobs/${id}`, { method: 'DELETE' })).status).toBe(202)
  const { state, price_microdollars: cost, progress } = await waitForEnd(id)
  expect({ state, progress }).toEqual({ state: 'canceled', progress: null })
  expect(cost).toBeGreaterThan(0)
  expect(cost).toBeLessThan(PRICE)
})

test('a reader follows a job by its events, with previews, to the image', async () => {
  const body = JSON.stringify({ prompt: 'a red heart', size: '64x64', steps: 8, route: 'full', preview: true })
  const { id } = (await (await call('/v1/jobs', { method: 'POST', body })).json()) as Job
  const text = await (await call(`/v1/jobs/${id}/events`)).text()
  const events = text
    .trimEnd()
    .split('\n\n')
    // On a busy machine, the stream also contains keep-alive comments.
    .filter((block) => !block.startsWith(':'))
    .map((block) => {
      const [, event, data] = /^id: \d+\nevent: (\w+)\ndata: (.*)$/.exec(block) ?? []
      return { event, data: JSON.parse(data!) }
    })
  expect(events.at(-1)!.event).toBe('succeeded')
  const previews = events.filter(({ event }) => event === 'preview').map(({ data }) => data)
  expect(previews.map(({ step }) => step)).toEqual([2, 4, 6])
  const file = await sharp(Buffer.from(previews[0].b64_json, 'base64')).metadata()
  expect(file).toMatchObject({ format: 'jpeg', width: 8, height: 8 })
  const image = await call(new URL(events.at(-1)!.data.images[0].url).pathname)
  expect(await sharp(await image.arrayBuffer()).metadata()).toMatchObject({ format: 'png', width: 64, height: 64 })
})
