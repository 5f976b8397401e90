import { Hono } from 'hono'
import * as z from 'zod'
import { keyRequired, owner } from '../auth.ts'
import type { EdgeEnv, Env } from '../env.ts'
import { ApiError } from '../errors.ts'
import { decisionOf, JOB_ID, type JobRecord, type StoredImage, warningsOf } from '../job-record.ts'
import { resultUrl } from '../results.ts'
import { parseFields } from '../validation.ts'

const unixSeconds = (milliseconds: number) => Math.floor(milliseconds / 1000)

/** A job as its owner sees it. Images are told once all of them are there. */
async function describe(env: Env, origin: string, job: JobRecord) {
  const done = job.state === 'succeeded'
  const image = async ({ key, ...facts }: StoredImage) => ({
    ...facts,
    url: await resultUrl(env, origin, job.id, { key }),
  })
  return {
    id: job.id,
    object: 'job',
    state: job.state,
    created: unixSeconds(job.created),
    finished: job.finished === null ? null : unixSeconds(job.finished),
    attempt: job.attempt,
    progress: job.progress,
    ...decisionOf(job),
    size: `${job.request.width}x${job.request.height}`,
    images: done ? await Promise.all(job.images.map(image)) : [],
    warnings: warningsOf(job),
    timings: job.timings,
    error: job.error,
    price_microdollars: done ? job.price : 0,
  }
}

const page = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20).describe('a whole number from 1 to 100'),
})
const unstored = { 'cache-control': 'no-store' }

/** Jobs for their owner. Another account's job is as absent as one that never was. */
export const jobs = new Hono<EdgeEnv>()
  .use(keyRequired)
  .get('/', async (c) => {
    const { account } = await owner(c)
    const { limit } = parseFields(page, page.shape, c.req.query())
    const ids = await c.env.ACCOUNT.getByName(account).recentJobs(limit)
    const records = await Promise.all(ids.map((id) => c.env.JOB.getByName(id).view()))
    const { origin } = new URL(c.req.url)
    // Between reservation and job there is a moment in which only the ledger knows the id.
    const data = await Promise.all(records.flatMap((job) => (job ? [describe(c.env, origin, job)] : [])))
    return c.json({ object: 'list', data }, 200, unstored)
  })
  .get('/:id', async (c) => {
    const { account } = await owner(c)
    const id = c.req.param('id')
    const job = JOB_ID.test(id) ? await c.env.JOB.getByName(id).view() : null
    if (!job || job.account !== account) throw new ApiError('not_found', `There is no job ${id}.`)
    return c.json(await describe(c.env, new URL(c.req.url).origin, job), 200, unstored)
  })
