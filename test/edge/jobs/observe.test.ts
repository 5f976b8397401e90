import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { observeJob, POINT } from '../../../edge/jobs/observe.ts'
import { generate, generatedOf, newCaller } from '../support/client.ts'
import { createEnvWith } from '../support/config.ts'
import { createStarted, encodeLine, fakeGpu, refuses, stream, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

const SECRET = 'a heron in the reeds'
const flower = { prompt: SECRET, negative_prompt: `${SECRET} at night`, route: 'full' }

/** Records all log lines from now on. */
function watchLog(): string[] {
  const lines: string[] = []
  for (const level of ['log', 'info', 'warn', 'error', 'debug'] as const)
    vi.spyOn(console, level).mockImplementation((...args) => void lines.push(args.map(String).join(' ')))
  return lines
}

async function createFinishedJob() {
  const caller = await newCaller()
  fakeGpu(works)
  const { octet } = await generatedOf(await generate(caller, flower))
  return (await env.JOB.getByName(octet.job).view())!
}

describe('a finished job', () => {
  test('is one line of the log, with its id and timings', async ({ expect }) => {
    const lines = watchLog()
    const { id, account, price } = await createFinishedJob()
    const logged = lines.map((text) => JSON.parse(text)).filter(({ message }) => message === 'a job finished')
    expect(logged).toHaveLength(1)
    expect(logged[0]).toMatchObject({ level: 'info', job: id, account, state: 'succeeded', denoise: 0.5 })
    expect(logged[0]).toMatchObject({ price_microdollars: price, attempts: 1, device: 'fake' })
  })

  test('is one data point of Analytics Engine, within its size limits', async ({ expect }) => {
    const job = await createFinishedJob()
    const points: AnalyticsEngineDataPoint[] = []
    const ANALYTICS = { writeDataPoint: (point?: AnalyticsEngineDataPoint) => void points.push(point!) }
    observeJob(createEnvWith({ ANALYTICS, OCTET_LOG_PROMPTS: 'false' }), job)
    expect(points).toEqual([
      {
        indexes: [job.account],
        blobs: ['succeeded', null, 'full', 'fp8', 'tiny', 'default', 'fake'],
        doubles: [1, 28, 0.065536, 1, job.price, expect.any(Number), 0, 0, 0.1, 0.5, 0.1, 0.7],
      },
    ])
    expect(Math.max(POINT.blobs.length, POINT.doubles.length)).toBeLessThanOrEqual(20)
  })

  test('that failed has an error and no price', async ({ expect }) => {
    const caller = await newCaller()
    fakeGpu(refuses(400, 'invalid_request'))
    const response = await generate(caller, flower)
    const job = (await env.JOB.getByName(response.headers.get('x-octet-job')!).view())!
    const lines = watchLog()
    observeJob(env, job)
    expect(JSON.parse(lines[0]!)).toMatchObject({ state: 'failed', error: 'generation_failed', price_microdollars: 0 })
  })
})

describe('prompts in the log', () => {
  test('are absent, whether the job succeeds, is refused or fails', async ({ expect }) => {
    const lines = watchLog()
    const caller = await newCaller()
    const fails = (code: string) => (seen: Parameters<typeof createStarted>[0]) =>
      stream([createStarted(seen), encodeLine({ type: 'failed', code, message: 'no memory' })])
    for (const behavior of [works, refuses(400, 'invalid_request'), fails('out_of_memory'), fails('internal')]) {
      fakeGpu(behavior)
      await generate(caller, flower)
    }
    await generate(caller, { ...flower, steps: 'many' })
    expect(lines.length).toBeGreaterThan(4)
    expect(lines.filter((text) => text.includes('heron'))).toEqual([])
  })

  test('are in the line of a finished job if OCTET_LOG_PROMPTS is "true"', async ({ expect }) => {
    const job = await createFinishedJob()
    const lines = watchLog()
    observeJob(createEnvWith({ OCTET_LOG_PROMPTS: 'true' }), job)
    expect(JSON.parse(lines[0]!)).toMatchObject({ prompt: SECRET, negative_prompt: `${SECRET} at night` })
  })
})
