// The load on a simulated GPU function: image comparison, cancellations, failures.
import { createHash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import sharp from 'sharp'
import { expect, onTestFinished, test } from 'vitest'
import type { JobEvent, JobRequest } from '../../../../gpu-fn/contract.ts'
import { Images } from '../../../../infra/bench/repeats/images.ts'
import { runLoad } from '../../../../infra/bench/repeats/load.ts'
import { isReproducible } from '../../../../infra/bench/repeats/report.ts'
import { drawRequests } from '../../../../infra/bench/repeats/requests.ts'
import { serveLocally } from '../../../../infra/command/local-server.ts'
import { randomOf } from '../../../../infra/command/random.ts'

const SIDE = 16

/** A uniform gray PNG with `change` added to the first value. */
function encodePng(level: number, change = 0, compressionLevel = 6): Promise<Buffer> {
  const data = Buffer.alloc(3 * SIDE * SIDE, level)
  data[0]! += change
  return sharp(data, { raw: { width: SIDE, height: SIDE, channels: 3 } })
    .png({ compressionLevel })
    .toBuffer()
}

test('an image with one different value, or with identical pixels in different bytes, is unequal', async () => {
  const images = new Images()
  const add = (request: number, job: string, file: Buffer) =>
    images.add({ request, job, seconds: 1, previous: 'no job', file })
  await add(0, 'first', await encodePng(10))
  await add(1, 'other', await encodePng(20))
  await add(0, 'equal', await encodePng(10))
  await add(0, 'changed', await encodePng(10, 1))
  await add(0, 'encoded', await encodePng(10, 0, 0))
  await add(0, 'broken', Buffer.from('no image'))
  expect(images.equal).toBe(1)
  expect(images.unequal.map(({ job, share }) => [job, share])).toEqual([
    ['changed', 1 / (3 * SIDE * SIDE)],
    ['encoded', 0],
    ['broken', 1],
  ])
  expect(images.unequal[0]!.psnr).toBeCloseTo(77, 0)
  expect(images.unequal[1]!.psnr).toBe(Number.POSITIVE_INFINITY)
  expect([images.kindsOf(0), images.kindsOf(1), images.kindsOf(2)]).toEqual([[2, 1, 1, 1], [1], []])
})

type Answer = (job: string, request: JobRequest, reply: ServerResponse) => Promise<void>

const encodeLine = (event: JobEvent) => `${JSON.stringify(event)}\n`
const timings = { queue: 0, load: 0, encode: 0, denoise: 0, decode: 0, total: 0 }

type Health = { running: number; queued: number }
const IDLE: Health = { running: 0, queued: 0 }

/**
 * Simulates the GPU function. PUT sends the event `accepted` and calls `answer`, DELETE cancels the job, and GET /healthz returns `health`,
 * or does not respond if it is null.
 */
async function serveJobs(answer: Answer, health: Health | null = IDLE): Promise<string> {
  const open = new Map<string, ServerResponse>()
  const onRequest = async (request: IncomingMessage, reply: ServerResponse) => {
    if (request.url === '/healthz') return health && reply.end(JSON.stringify(health))
    const job = request.url!.split('/').at(-1)!
    const body = Buffer.concat(await request.toArray()).toString()
    if (request.method === 'DELETE') {
      open.get(job)?.end(encodeLine({ type: 'canceled', steps_done: 0, timings }))
      return reply.writeHead(204).end()
    }
    open.set(job, reply)
    reply.write(encodeLine({ type: 'accepted', job, attempt: 1, position: 0 }))
    return answer(job, JSON.parse(body), reply)
  }
  const server = await serveLocally((request, reply) => void onRequest(request, reply))
  onTestFinished(() => server.stop())
  return server.url
}

async function sendImage({ width, height, seed }: JobRequest, reply: ServerResponse, file: Buffer): Promise<void> {
  const sha256 = createHash('sha256').update(file).digest('hex')
  const about = { image: 0, seed, width, height, content_type: 'image/png', bytes: file.byteLength, sha256 } as const
  reply.write(encodeLine({ type: 'image', ...about }))
  reply.write(file)
  reply.end(encodeLine({ type: 'succeeded', images: 1, timings }))
}

const requests = drawRequests({ requests: 2, size: SIDE, tiers: ['fp8'], loras: [] }, randomOf(1, 'requests'))
const jobsOf = (count: number) =>
  Array.from({ length: count }, (_, k) => ({ id: `job-${k}`, request: k % 2, cancellation: null }))
const seedOf = ({ seed }: JobRequest) => Number(seed)

test('a differing image is detected under load and on the idle function', async () => {
  const wrong = ['job-7', 'alone-1']
  const url = await serveJobs(async (job, request, reply) => {
    await sendImage(request, reply, await encodePng(seedOf(request), wrong.includes(job) ? 1 : 0))
  })
  const result = await runLoad({ url, model: 'tiny', requests, jobs: jobsOf(10), callers: 3 })
  expect(result.ended).toEqual({ succeeded: 10, canceled: 0, 'hung up': 0, failed: 0 })
  expect(result.images.unequal.map(({ job }) => job)).toEqual(wrong)
  expect(result.images.equal).toBe(8)
  expect([result.alone.equal, result.alone.unequal]).toEqual([1, 1])
  expect(isReproducible(result)).toBe(false)
})

test('identical images in all jobs count as reproducible', async () => {
  const url = await serveJobs(async (_, request, reply) => sendImage(request, reply, await encodePng(seedOf(request))))
  const result = await runLoad({ url, model: 'tiny', requests, jobs: jobsOf(6), callers: 2 })
  expect([result.images.equal, result.alone.equal]).toEqual([6, 2])
  expect(isReproducible(result)).toBe(true)
})

test('jobs are canceled by DELETE or by closing the connection; any other end without an image is a failure', async () => {
  const url = await serveJobs(async (job, request, reply) => {
    if (job === 'deleted' || job === 'abandoned') return
    if (job === 'failed') reply.end(encodeLine({ type: 'failed', code: 'internal', message: 'a fault' }))
    else if (job === 'lost') reply.end(encodeLine({ type: 'canceled', steps_done: 0, timings }))
    else if (job === 'cut') reply.end()
    else await sendImage(request, reply, await encodePng(seedOf(request)))
  })
  const plan = { request: 0, cancellation: null }
  const jobs = [
    { ...plan, id: 'deleted', cancellation: { by: 'DELETE', at: 0.5 } } as const,
    { ...plan, id: 'abandoned', cancellation: { by: 'hanging up', at: 0.5 } } as const,
    ...['failed', 'lost', 'cut', 'fine'].map((id) => ({ ...plan, id })),
  ]
  const result = await runLoad({ url, model: 'tiny', requests, jobs, callers: 2 })
  expect(result.ended).toEqual({ succeeded: 1, canceled: 1, 'hung up': 1, failed: 3 })
  expect(result.failures.toSorted()).toEqual([
    'cut, request 0: the stream ended before the job',
    'failed, request 0: internal: a fault',
    'lost, request 0: canceled without a request',
  ])
  expect(isReproducible(result)).toBe(false)
})

test.each([
  [{ running: 1, queued: 2 }, '1 running and 2 queued'],
  [null, 'no response'],
])('fails if the GPU function is not idle in time: %j', async (health, state) => {
  const answer: Answer = async (_, request, reply) => sendImage(request, reply, await encodePng(seedOf(request)))
  const url = await serveJobs(answer, health)
  const load = runLoad({ url, model: 'tiny', requests, jobs: jobsOf(2), callers: 1, idleMs: 300 })
  await expect(load).rejects.toThrow(
    `the GPU function is not idle 0.3 s after the last job: ${state}; abandoned jobs must be canceled`,
  )
})
