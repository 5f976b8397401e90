// The block list of OCTET_CONTENT_POLICY. test/e2e/moderation.test.ts tests the moderation service.
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { findProblems } from '../../../edge/config.ts'
import { type Caller, generate, generatedOf, ledgerOf, newCaller, problemOf, send } from '../support/client.ts'
import { fakeGpu, type SeenRequest, works } from '../support/fake-gpu.ts'
import { jobOf } from '../support/jobs.ts'

const variables = env as unknown as Record<string, unknown>
const before = variables.OCTET_CONTENT_POLICY
let caller: Caller
let gpu: SeenRequest[]
beforeEach(async () => {
  variables.OCTET_CONTENT_POLICY = { block: ['Forbidden Thing', 'verboten'] }
  caller = await newCaller()
  gpu = fakeGpu(works)
})
afterEach(() => {
  variables.OCTET_CONTENT_POLICY = before
  vi.restoreAllMocks()
})

describe('a blocked prompt', () => {
  test.for([
    [{ prompt: 'a FÓRBIDDEN\u200b-thing at dusk' }, 'prompt'],
    [{ prompt: 'a cat', prompt_2: 'verboten' }, 'prompt_2'],
    [{ prompt: 'a cat', prompt_3: 'Verboten!' }, 'prompt_3'],
  ] as const)('%j is refused in the format of OpenAI', async ([fields, param], { expect }) => {
    const logged = vi.spyOn(console, 'log')
    const response = await generate(caller, fields)
    expect([response.status, response.headers.get('x-should-retry')]).toEqual([400, 'false'])
    expect((await problemOf(response)).error).toMatchObject({
      ...{ code: 'content_policy_violation', type: 'invalid_request_error', param },
    })
    expect(JSON.stringify(logged.mock.calls)).not.toMatch(/verboten|forbidden/i)
  })

  test('reserves nothing, creates no job and reaches no GPU, on any route', async ({ expect }) => {
    const requests = [
      generate(caller, { prompt: 'verboten' }),
      send('POST', '/v1/jobs', caller, { prompt: 'verboten' }),
      send('PUT', '/v1/jobs/mine', caller, { prompt: 'verboten' }),
    ]
    expect((await Promise.all(requests)).map(({ status }) => status)).toEqual([400, 400, 400])
    expect(await ledgerOf(caller)).toEqual({ reserved: 0, captured: 0 })
    expect(await (await send('GET', '/v1/jobs', caller)).json()).toMatchObject({ data: [] })
    expect(gpu).toEqual([])
  })
})

test('an allowed prompt has its verdict in the job; a blocked phrase in the negative prompt is allowed', async ({
  expect,
}) => {
  const { octet } = await generatedOf(await generate(caller, { prompt: 'a cat', negative_prompt: 'verboten' }))
  expect((await jobOf({ id: octet.job }).view())?.content).toEqual({ block_list: 'passed', moderation: null })
})

test('a job without a policy has no verdict', async ({ expect }) => {
  variables.OCTET_CONTENT_POLICY = undefined
  const { octet } = await generatedOf(await generate(caller, { prompt: 'verboten' }))
  expect(await jobOf({ id: octet.job }).view()).not.toHaveProperty('content')
})

test('the prompt of a revoked key is not sent for moderation', async ({ expect }) => {
  variables.OCTET_CONTENT_POLICY = { moderation: { url: 'https://moderation.test' } }
  await env.ACCOUNT.getByName(caller.account).revokeKey(caller.keyId)
  const sent = vi.mocked(globalThis.fetch).mockClear()
  const statuses = await Promise.all([
    generate(caller, { prompt: 'a cat' }),
    send('POST', '/v1/jobs', caller, { prompt: 'a cat' }),
    send('POST', '/v1/predictions', caller, { input: { prompt: 'a cat' } }),
  ])
  expect(statuses.map(({ status }) => status)).toEqual([401, 401, 401])
  expect(sent).not.toHaveBeenCalled()
})

test('a malformed policy is reported before a deployment', ({ expect }) => {
  const problemsOf = (OCTET_CONTENT_POLICY: unknown) => findProblems({ ...variables, OCTET_CONTENT_POLICY })
  expect(problemsOf({ block: ['fine', '!!'] })).toEqual([
    expect.stringMatching(/^OCTET_CONTENT_POLICY\.block\[1\] is .*: it must have a letter or a digit\.$/),
  ])
  const malformed = [
    { block: ['x'.repeat(101)] },
    { block: Array.from({ length: 1001 }, (_, k) => `word ${k}`) },
    { moderation: { url: 'ftp://example.com' } },
    { moderation: { url: 'https://example.com', on_error: 'ignore' } },
    { moderation: { url: 'https://example.com', timeout_seconds: 31 } },
  ]
  for (const policy of malformed) expect(problemsOf(policy)).toHaveLength(1)
})
