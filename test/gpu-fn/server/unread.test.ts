// A job without a reader is canceled, however the connection was lost and even if the cancellation request reached another process.
import { once } from 'node:events'
import { connect } from 'node:net'
import { expect, test } from 'vitest'
import { readJobStream } from '../../../infra/system/job-stream.ts'
import { createPacedEngine } from '../../support/engine/paced-engine.ts'
import { createJobBody, deleteJob, putJob, refusalOf, signToken } from '../../support/gpu/client.ts'
import { readUntil, readWholeStream, typesOf } from '../../support/gpu/job-stream.ts'
import { startRoundRobin } from '../../support/gpu/round-robin.ts'
import { startServer } from '../../support/gpu/server.ts'

/** A job with more steps than any test allows its engine to run. */
const LONG = { steps: 100, count: 8 }
const UNREAD = { unreadSeconds: 0.2, heartbeatMs: 60_000 }

/** Polls with a long timeout, for events that are immediate on an idle machine. */
const pollEventually = <T>(read: () => T) => expect.poll(read, { timeout: 30_000 })

type Server = Awaited<ReturnType<typeof startServer>>
const countRunning = ({ jobs }: Server) => jobs.counts().running
const listOutcomes = ({ logs }: Server) => logs.filter(({ msg }) => msg === 'job ended').map(({ outcome }) => outcome)

/** Submits a job over a new socket and waits for the start of the response. */
async function openSocket({ port }: Server, job: string) {
  const text = JSON.stringify(createJobBody(LONG))
  const socket = connect(port, '127.0.0.1')
  socket.write(
    `PUT /jobs/${job} HTTP/1.1\r\nhost: gpu\r\ncontent-type: application/json\r\ncontent-length: ${text.length}\r\n` +
      `authorization: Bearer ${await signToken(job, text)}\r\n\r\n${text}`,
  )
  socket.on('error', () => {})
  await once(socket, 'data')
  return socket
}

test.each<[string, (socket: Awaited<ReturnType<typeof openSocket>>) => unknown]>([
  ['ends', (socket) => socket.destroy()],
  ['is reset', (socket) => socket.resetAndDestroy()],
])('a connection that %s is detected immediately, even without traffic, and its job is canceled', async (_, close) => {
  const engine = createPacedEngine(0)
  await using server = await startServer(engine, UNREAD)
  const socket = await openSocket(server, 'job-1')
  expect(countRunning(server)).toBe(1)
  close(socket)
  await pollEventually(() => listOutcomes(server)).toMatchObject([{ type: 'canceled', steps_done: 0 }])
  expect(server.logs.find(({ msg }) => msg === 'job canceled: it has no reader')).toMatchObject({ job: 'job-1' })
})

test('a connection closed before the start of the response leaves no reader attached', async () => {
  const engine = createPacedEngine(0)
  await using server = await startServer(engine, UNREAD)
  for (let i = 0; i < 20; i++) {
    const text = JSON.stringify(createJobBody({ ...LONG, seed: i }))
    const token = await signToken(`job-${i}`, text)
    const socket = connect(server.port, '127.0.0.1')
    socket.on('error', () => {})
    socket.write(
      `PUT /jobs/job-${i} HTTP/1.1\r\nhost: gpu\r\ncontent-type: application/json\r\ncontent-length: ${text.length}\r\n` +
        `authorization: Bearer ${token}\r\n\r\n${text}`,
      () => socket.destroy(),
    )
    await once(socket, 'close')
  }
  await pollEventually(() => server.jobs.counts()).toEqual({ running: 0, queued: 0 })
})

test('a job continues if one of its two readers disconnects', async () => {
  const engine = createPacedEngine(1)
  await using server = await startServer(engine, UNREAD)
  await using balancer = await startRoundRobin([server.url])
  const stays = await putJob(balancer.url, 'job-1', { steps: 4 })
  await readUntil(await putJob(balancer.url, 'job-1', { steps: 4 }), 'step')
  await new Promise((resolve) => setTimeout(resolve, 4 * 1000 * UNREAD.unreadSeconds))
  engine.allow(3)
  expect(typesOf(await readWholeStream(stays)).at(-1)).toBe('succeeded')
})

test('behind a round-robin balancer, a run is canceled after a disconnect even if the DELETE reached another process', async () => {
  const engines = [createPacedEngine(2), createPacedEngine(2)]
  await using first = await startServer(engines[0]!, UNREAD)
  await using second = await startServer(engines[1]!, UNREAD)
  await using balancer = await startRoundRobin([first.url, second.url])
  const stream = readJobStream((await putJob(balancer.url, 'job-1', LONG)).body!)
  for (let type = ''; type !== 'step'; ) type = (await stream.next()).value!.event.type
  expect(await refusalOf(await deleteJob(balancer.url, 'job-1'))).toBe('404 job_not_found')
  expect([countRunning(first), countRunning(second)]).toEqual([1, 0])
  await stream.return(undefined)
  await pollEventually(() => countRunning(first)).toBe(0)
  expect(listOutcomes(first)).toMatchObject([{ type: 'canceled' }])

  // A duplicate of the request that reaches the second process after the DELETE is canceled.
  expect(balancer.next).toBe(0)
  balancer.next = 1
  expect(typesOf(await readWholeStream(await putJob(balancer.url, 'job-1', LONG)))).toEqual(['accepted', 'canceled'])
  expect(engines.map(({ runs }) => runs.length)).toEqual([1, 0])
})

test('behind a round-robin balancer, a retry after a lost stream replaces the first run and returns the result', async () => {
  const engines = [createPacedEngine(1), createPacedEngine(1)]
  await using first = await startServer(engines[0]!, UNREAD)
  await using second = await startServer(engines[1]!, UNREAD)
  await using balancer = await startRoundRobin([first.url, second.url])
  const request = { steps: 4 }
  await readUntil(await putJob(balancer.url, 'job-1', request), 'step')
  const retry = await putJob(balancer.url, 'job-1', { ...request, attempt: 2 })
  await pollEventually(() => [countRunning(first), countRunning(second)]).toEqual([0, 1])
  expect(listOutcomes(first)).toMatchObject([{ type: 'canceled' }])
  engines[1]!.allow(3)
  expect(typesOf(await readWholeStream(retry)).at(-1)).toBe('succeeded')

  // Attempt 3 reaches the first process, which canceled its own run and runs the job again.
  balancer.next = 0
  const third = await putJob(balancer.url, 'job-1', { ...request, attempt: 3 })
  engines[0]!.allow(4)
  expect(typesOf(await readWholeStream(third)).at(-1)).toBe('succeeded')
})
