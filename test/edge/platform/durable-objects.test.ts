// Calls to Durable Objects across resets, and when an object is overloaded or broken.
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { EndpointDO } from '../../../edge/gpu/endpoint-object.ts'
import { clearGpuStates } from '../../../edge/gpu/health.ts'
import { objectOf } from '../../../edge/platform/durable-objects.ts'
import { fetchWorker, newCaller, readJob, send } from '../support/client.ts'
import { fakeGpu, refuses } from '../support/fake-gpu.ts'
import { jobOf } from '../support/jobs.ts'

afterEach(() => {
  vi.restoreAllMocks()
  clearGpuStates()
})

type Greeter = Rpc.DurableObjectBranded & { greet(name: string): string }

/** A namespace whose stubs fail with these errors, one after another, and then work. Counts the stubs. */
function createFailingNamespace(...errors: object[]) {
  let stubs = 0
  const getByName = () => {
    const error = errors[stubs++]
    return { greet: async (name: string) => (error ? Promise.reject(error) : `hello ${name}`) }
  }
  return { namespace: { getByName } as unknown as DurableObjectNamespace<Greeter>, stubs: () => stubs }
}

const createFailure = (flags: object) => Object.assign(new Error('broken'), flags)
const reset = createFailure({ durableObjectReset: true, remote: true })

describe('a call to an object', () => {
  test('is repeated on a fresh stub while the object is being reset', async ({ expect }) => {
    const { namespace, stubs } = createFailingNamespace(reset, createFailure({ retryable: true }), reset)
    expect(await objectOf(namespace, 'a').greet('you')).toBe('hello you')
    expect(stubs()).toBe(4)
  })

  test('is a 503 for callers if the resets outlast the retries', async ({ expect }) => {
    vi.spyOn(globalThis, 'setTimeout').mockImplementation(((run: () => void) => queueMicrotask(run)) as never)
    const { namespace, stubs } = createFailingNamespace(...Array.from({ length: 20 }, () => reset))
    await expect(objectOf(namespace, 'a').greet('you')).rejects.toMatchObject({ code: 'overloaded' })
    expect(stubs()).toBe(8)
  })

  test.for([[{}], [{ remote: true }]])(
    'is not repeated after an error of the object: %j',
    async ([flags], { expect }) => {
      const { namespace, stubs } = createFailingNamespace(createFailure(flags!))
      await expect(objectOf(namespace, 'a').greet('you')).rejects.toThrow('broken')
      expect(stubs()).toBe(1)
    },
  )

  test('is not repeated if the object is overloaded, which is also a 503 for callers', async ({ expect }) => {
    const { namespace, stubs } = createFailingNamespace(createFailure({ overloaded: true, retryable: true }))
    await expect(objectOf(namespace, 'a').greet('you')).rejects.toMatchObject({ code: 'overloaded' })
    expect(stubs()).toBe(1)
  })
})

test('a failing endpoint object affects neither jobs nor quotes', async ({ expect }) => {
  const caller = await newCaller()
  fakeGpu(refuses(503, 'loading'))
  const { id } = await readJob(await send('POST', '/v1/jobs', caller, { prompt: 'a cat' }))
  await vi.waitFor(async () => expect((await jobOf({ id }).view())?.waiting).not.toBeNull())
  const state = vi.spyOn(EndpointDO.prototype, 'state').mockRejectedValue(createFailure({ overloaded: true }) as never)
  clearGpuStates()
  for (let k = 0; k < 5; k++) {
    const job = await fetchWorker(`/v1/jobs/${id}`, { headers: caller.headers })
    expect([job.status, ((await job.json()) as { gpu: unknown }).gpu]).toEqual([200, null])
  }
  expect((await send('POST', '/v1/quote', caller, { prompt: 'a cat' })).status).toBe(200)
  expect(state).toHaveBeenCalledTimes(1)
  await env.JOB.getByName(id).cancel()
})
