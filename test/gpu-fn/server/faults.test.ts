// Faults of the real engine behind the real server: the job ends, and the process serves the next attempt without a restart.
import { cp, mkdtemp, rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import type { JobRequest } from '../../../gpu-fn/contract.ts'
import { PackageEngine } from '../../../gpu-fn/engine/package-engine.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'
import { CHANNEL, type EngineFault } from '../../../infra/bench/soak/faults.ts'
import { readJobStream } from '../../../infra/system/job-stream.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { putJob } from '../../support/gpu/client.ts'
import { readWholeStream } from '../../support/gpu/job-stream.ts'
import { startServer } from '../../support/gpu/server.ts'

const FAULTY = new URL('../../../infra/bench/soak/faulty-worker.ts', import.meta.url)
const STEPS = 12
const DAY_MS = 86_400_000

let compiled: string
let expected: string
beforeAll(async () => {
  compiled = await compileTiny({ tier: 'fp8' })
  const { run } = await start()
  expected = (await run('reference')).sha256!
})

/** A server over an engine whose thread raises the faults of the channel. */
async function start() {
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-faults-'))
  const packages = path.join(scratch, 'packages')
  await cp(compiled, path.join(packages, 'custom'), { recursive: true })
  const messages: string[] = []
  const log = pino({}, { write: (line) => void messages.push(JSON.parse(line).msg) })
  const verifier = new Verifier({ directory: path.join(scratch, 'cache'), log })
  const limits = { memoryBytes: 1e9, stallSeconds: 60, onStall: () => messages.push('stalled') }
  const engine = new PackageEngine({ packages, verifier, log, program: FAULTY, ...limits })
  await engine.start()
  const server = await startServer(engine)
  const stop = async () => {
    await server[Symbol.asyncDispose]()
    await engine.stop()
    await rm(scratch, { recursive: true })
  }
  cleanUp.push(stop)
  /** Runs a job to its end; `onStep` is called after its first step. Returns its final event, and the digest of its image. */
  const run = async (id: string, { onStep, ...overrides }: Partial<JobRequest> & { onStep?: () => unknown } = {}) => {
    const body = { model: 'custom', steps: STEPS, ...overrides }
    let sha256: string | undefined
    let begun = false
    for await (const { event } of readJobStream((await putJob(server.url, id, body)).body!)) {
      // A repeated job runs its first step again.
      if (event.type === 'step' && !begun) await onStep?.()
      begun ||= event.type === 'step'
      if (event.type === 'image') sha256 = event.sha256
      if (event.type === 'succeeded' || event.type === 'failed') return { event, sha256 }
    }
    throw new Error('the stream ended without a final event')
  }
  return { run, packages, messages, server }
}
const cleanUp: (() => Promise<void>)[] = []
afterAll(async () => {
  for (const stop of cleanUp) await stop()
})

test.each<[EngineFault, 'failed' | 'succeeded', string | null]>([
  ['throw', 'failed', null],
  ['not a number', 'failed', null],
  ['thread ends', 'failed', 'the engine thread ended; the next job starts another'],
  ['thread throws', 'failed', 'the engine thread failed'],
  ['out of memory', 'succeeded', null],
  ['slow', 'succeeded', null],
])('"%s" during a step: the attempt %s, and the next one generates the image', async (fault, outcome, message) => {
  const { run, messages, server } = await start()
  const channel = new BroadcastChannel(CHANNEL)
  onTestFinished(() => channel.close())
  const first = await run('job', { onStep: () => channel.postMessage(fault) })
  expect(first.event.type).toBe(outcome)
  if (first.event.type === 'failed') expect(first.event).toMatchObject({ code: 'internal' })
  else expect(first.sha256).toBe(expected)
  const second = await run('job', { attempt: 2 })
  expect(second).toMatchObject({ event: { type: 'succeeded' }, sha256: expected })
  if (message) expect(messages).toContain(message)
  else expect(messages.filter((each) => each.startsWith('the engine thread'))).toEqual([])
  const repeats = server.logs.filter(({ msg }) => msg === 'a job ran out of memory and is repeated alone')
  expect(repeats).toHaveLength(fault === 'out of memory' ? 1 : 0)
  expect(server.broken).toEqual([])
})

test('an open model keeps serving jobs after its package is replaced, then deleted', async () => {
  const { run, packages } = await start()
  const directory = path.join(packages, 'custom')
  const replace = async () => {
    await cp(directory, `${directory}.new`, { recursive: true })
    await rename(directory, `${directory}.old`)
    await rename(`${directory}.new`, directory)
    await rm(`${directory}.old`, { recursive: true })
  }
  expect(await run('a', { onStep: replace })).toMatchObject({ event: { type: 'succeeded' }, sha256: expected })
  expect(await run('b', { onStep: () => rm(directory, { recursive: true }) })).toMatchObject({ sha256: expected })
  expect((await run('c')).event).toMatchObject({ type: 'failed', code: 'model_not_available' })
})

test.each([DAY_MS, -DAY_MS])(
  'a jump of the system clock by %d ms affects neither a job nor its timings',
  async (jump) => {
    const { run, server, messages } = await start()
    const { now } = Date
    const clock = vi.spyOn(Date, 'now')
    onTestFinished(() => clock.mockRestore())
    const before = performance.now()
    const { event, sha256 } = await run('job', { onStep: () => clock.mockImplementation(() => now() + jump) })
    expect({ event, sha256 }).toMatchObject({ event: { type: 'succeeded' }, sha256: expected })
    const { total, queue } = (event as Extract<typeof event, { type: 'succeeded' }>).timings
    expect(total * 1000).toBeLessThanOrEqual(performance.now() - before)
    expect(queue).toBeGreaterThanOrEqual(0)
    clock.mockRestore()
    // The job is kept for replay, and the engine is not mistaken for a hung one.
    expect(
      (await readWholeStream(await putJob(server.url, 'job', { model: 'custom', steps: STEPS }))).at(-1)?.event,
    ).toEqual(event)
    expect(messages).not.toContain('stalled')
  },
)
