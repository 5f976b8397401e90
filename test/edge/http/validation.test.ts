// The error of an invalid request is small and names at most ten problems, for any content.
import { describe, test } from 'vitest'
import * as z from 'zod'
import { formatValue } from '../../../edge/http/validation.ts'
import { fetchWorker, generate, IMAGE_FIELDS, newCaller, type Problem, send } from '../support/client.ts'
import { operator } from '../support/operator.ts'

const MAX_REPLY = 16 * 1024

async function readProblem(response: Response): Promise<Problem & { bytes: number }> {
  const text = await response.text()
  return { ...(JSON.parse(text) as Problem), bytes: text.length }
}

const createMany = (n: number, name = (i: number) => `x${i}`) =>
  Object.fromEntries(Array.from({ length: n }, (_, i) => [name(i), 1]))
const createNested = (depth: number, open: string, close: string) => `${open.repeat(depth)}1${close.repeat(depth)}`
const prompt = 'a cat'

const bodies: [string, string][] = [
  ['20,000 unknown fields', JSON.stringify(createMany(20_000))],
  ['unknown fields of 20,000 characters', JSON.stringify(createMany(10, (i) => `${i}`.repeat(20_000)))],
  ['a long text in place of a number', JSON.stringify({ prompt, n: 'x'.repeat(200_000) })],
  ['a long text of control characters', JSON.stringify({ prompt, size: '\u0000'.repeat(40_000) })],
  ['a long list in place of a number', JSON.stringify({ prompt, n: Array(100_000).fill(1) })],
  ['a field with many nested fields', JSON.stringify({ prompt, n: createMany(20_000) })],
  ['a list 100,000 deep', `{"prompt":"a cat","n":${createNested(100_000, '[', ']')}}`],
  ['an object 30,000 deep', `{"prompt":"a cat","n":${createNested(30_000, '{"a":', '}')}}`],
  ['a list 100,000 deep as the body', createNested(100_000, '[', ']')],
  ['a long model', JSON.stringify({ prompt, model: 'm'.repeat(200_000) })],
  ['a long webhook', JSON.stringify({ prompt, webhook: `https://a.com/${'w'.repeat(200_000)}` })],
  ['a long text that is not JSON', `{"prompt": ${'x'.repeat(200_000)}`],
  [
    'more than twenty wrong fields',
    JSON.stringify({
      ...Object.fromEntries(IMAGE_FIELDS.map((name) => [name, { wrong: 'x'.repeat(500) }])),
      prompt: 1,
    }),
  ],
]

describe('a request for an image with', () => {
  test.for(bodies)('%s', async ([, body], { expect }) => {
    const response = await generate(await newCaller(), body)
    const problem = await readProblem(response)
    expect(response.status).toBe(400)
    expect(problem.bytes).toBeLessThan(MAX_REPLY)
    expect(problem.errors?.length ?? 1).toBeLessThanOrEqual(10)
    expect(problem.detail.length).toBeLessThanOrEqual(1001)
    expect(problem.error.param?.length ?? 0).toBeLessThanOrEqual(61)
  })

  test('an error about a field with a very long name quotes only its beginning', async ({ expect }) => {
    const { detail, error } = await readProblem(
      await send('POST', '/v1/jobs', await newCaller(), { prompt, [`cfg${'x'.repeat(500)}`]: 1 }),
    )
    expect(detail).toMatch(/^cfgx{57}… is not a field of this request; allowed are prompt, /)
    expect(error.param).toBe(`cfg${'x'.repeat(57)}…`)
  })
})

test('refusals of other bodies, queries and paths are equally small', async ({ expect }) => {
  const caller = await newCaller({ scopes: ['admin', 'read', 'generate'] })
  const long = 'x'.repeat(2000)
  const query = Array.from({ length: 200 }, (_, i) => `${long.slice(0, 30)}${i}=1`).join('&')
  const responses = await Promise.all([
    send('POST', '/v1/keys', caller, { scopes: Array(2000).fill('root') }),
    send('POST', '/v1/keys', caller, { limits: createMany(1000) }),
    send('POST', '/v1/tokens', caller, createMany(1000)),
    send('PATCH', '/v1/accounts/me', { headers: operator }, createMany(1000)),
    fetchWorker(`/v1/jobs?${query}`, { headers: caller.headers }),
    fetchWorker(`/v1/usage?from=${long}`, { headers: caller.headers }),
    fetchWorker(`/v1/keys/${long}`, { headers: caller.headers }),
    fetchWorker(`/v1/jobs/${long}`, { headers: caller.headers }),
    fetchWorker(`/v1/results/${long}/${long}`, { headers: caller.headers }),
    fetchWorker(`/v1/operator/jobs/${long}`, { headers: operator }),
    fetchWorker(`/v1/accounts/${long}`, { headers: operator }),
    fetchWorker(`/${long}`),
  ])
  for (const response of responses) {
    const { bytes, errors } = await readProblem(response)
    expect([400, 404]).toContain(response.status)
    expect(bytes).toBeLessThan(MAX_REPLY)
    expect(errors?.length ?? 0).toBeLessThanOrEqual(10)
  }
})

test.for([
  [undefined, 'missing'],
  ['a', '"a"'],
  [['root'], '["root"]'],
  [{ rpm: 1 }, '{"rpm":1}'],
  [Array(11).fill(1), '[1,1,1,1,1,1,1,1,1,1,"…"]'],
  ['x'.repeat(100), `"${'x'.repeat(59)}… (100 characters)`],
  [[[[[[1]]]]], '[[["…"]]]'],
] as const)('%j is formatted as %s', ([value, text], { expect }) => {
  expect(formatValue(value)).toBe(text)
})

test('zod rejects deeply nested input without recursion', ({ expect }) => {
  const deep = JSON.parse(createNested(200_000, '[', ']')) as unknown
  expect(z.strictObject({ n: z.int() }).safeParse({ n: deep }).success).toBe(false)
  expect(formatValue(deep)).toBe('[[["…"]]]')
})
