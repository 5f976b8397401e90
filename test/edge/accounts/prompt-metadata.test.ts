// The setting that keeps prompts out of image files.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { decodeJwt } from 'jose'
import { afterEach, beforeEach, test, vi } from 'vitest'
import { accountOf } from '../support/admissions.ts'
import { type Caller, generate, generatedOf, newCaller, problemOf, readJob, send } from '../support/client.ts'
import { fakeGpu, type SeenRequest, works } from '../support/fake-gpu.ts'
import { reset } from '../support/jobs.ts'

const OPERATOR = { headers: { authorization: `Bearer ${env.OCTET_ADMIN_TOKEN}` } }
const BODY = { prompt: 'a cat', size: '64x64', seed: 3 }

let caller: Caller
let gpu: SeenRequest[]
beforeEach(async () => {
  caller = await newCaller()
  gpu = fakeGpu(works)
})
afterEach(() => vi.restoreAllMocks())

const formatPath = () => `/v1/accounts/${caller.account}`
const turnOff = () => send('PATCH', formatPath(), OPERATOR, { prompt_metadata: false })
const run = async (change: object = {}) => (await generatedOf(await generate(caller, { ...BODY, ...change }))).octet

test('prompts are in files unless the operator turns them off for the account', async ({ expect }) => {
  expect(await (await send('GET', formatPath(), OPERATOR)).json()).toMatchObject({ prompt_metadata: true })
  await run()
  expect(await (await turnOff()).json()).toMatchObject({ prompt_metadata: false, retention_days: 30 })
  expect(await (await send('GET', formatPath(), OPERATOR)).json()).toMatchObject({ prompt_metadata: false })
  await run()
  expect(gpu.map(({ request }) => request.prompt_metadata)).toEqual([undefined, false])
  expect((await problemOf(await send('PATCH', formatPath(), OPERATOR, { prompt_metadata: 'no' }))).error.param).toBe(
    'prompt_metadata',
  )
})

test('a file with prompts is not reused for a request without them', async ({ expect }) => {
  const first = await run()
  await turnOff()
  const second = await run({ reuse: true })
  const third = await run({ reuse: true })
  expect([second.job === first.job, third.job === second.job]).toEqual([false, true])
  expect(gpu).toHaveLength(2)
})

test('the receipt states that the file has no prompts, so that the file can be reproduced', async ({ expect }) => {
  const parametersOf = async (job: string) => {
    const { images } = await readJob(await send('GET', `/v1/jobs/${job}`, caller))
    return decodeJwt<{ parameters: object }>(images[0]!.receipt).parameters
  }
  expect(await parametersOf((await run()).job)).not.toHaveProperty('prompt_metadata')
  await turnOff()
  expect(await parametersOf((await run()).job)).toMatchObject({ prompt_metadata: false })
})

test('an account stored by an earlier release keeps its settings, with prompts in its files', async ({ expect }) => {
  await accountOf(caller).configure({ retention_days: 7 })
  await runInDurableObject(accountOf(caller), (_, { storage }) => {
    storage.sql.exec('ALTER TABLE settings DROP COLUMN prompt_metadata')
  })
  await reset(accountOf(caller))
  const { settings } = await accountOf(caller).view()
  expect(settings).toMatchObject({ retention_days: 7, prompt_metadata: true })
})
