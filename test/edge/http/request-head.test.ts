// URLs and headers are bounded before they are parsed, and no text in them takes long to parse.
import fc from 'fast-check'
import { describe, test } from 'vitest'
import { waitSeconds } from '../../../edge/http/prefer.ts'
import { requestsText } from '../../../edge/routing/route.ts'
import { fetchWorker, newCaller, problemOf, send } from '../support/client.ts'

const READ = ['authorization', 'prefer', 'range', 'if-none-match', 'if-range', 'idempotency-key', 'last-event-id']

describe('a request', () => {
  test.for(READ)('with a header %s of 3,000 characters is refused with 431', async (name, { expect }) => {
    const caller = await newCaller()
    for (const value of ['x'.repeat(3000), `wait${' '.repeat(2995)}x`]) {
      const response = await fetchWorker('/v1/models', { headers: { ...caller.headers, [name]: value } })
      const { error, detail } = await problemOf(response)
      expect([response.status, error.code]).toEqual([431, 'header_too_large'])
      expect(detail).toBe(`The header ${name} has 3000 characters; the limit is 2048.`)
    }
  })

  test('with a long header that the worker ignores is served', async ({ expect }) => {
    const caller = await newCaller()
    const headers = { ...caller.headers, cookie: 'x'.repeat(3000), 'x-of-a-proxy': 'y'.repeat(3000) }
    expect((await fetchWorker('/v1/models', { headers })).status).toBe(200)
  })

  test('with a URL of more than 8,192 characters is refused with 414', async ({ expect }) => {
    const response = await fetchWorker(`/v1/models?x=${'y'.repeat(8192)}`)
    expect([response.status, (await problemOf(response)).error.code]).toEqual([414, 'uri_too_long'])
  })

  test('is served with 2,000 spaces in its Prefer header', async ({ expect }) => {
    const response = await send('GET', '/v1/jobs', await newCaller(), undefined, { prefer: `wait${' '.repeat(2000)}x` })
    expect(response.status).toBe(200)
  })
})

test.for([
  [undefined, 0],
  ['', 0],
  ['respond-async', 0],
  ['wait', 60],
  ['wait=7', 7],
  ['WAIT = "7"', 7],
  ['respond-async, wait=20; x=1', 20],
  ['wait=1, wait=9', 1],
  ['wait=1000000000000', 0],
  ['wait=999', 60],
  ['wait=-1', 0],
  ['wait=x', 0],
  ['awaits=5', 0],
  ['handling=lenient; wait=5', 5],
] as const)('Prefer: %s waits %d s', ([header, seconds], { expect }) => {
  expect(waitSeconds(header)).toBe(seconds)
})

/** The definition of the parser, which is slow for some texts. */
const QUOTED =
  /"[^"]{1,200}"|“[^”]{1,200}”|«[^»]{1,200}»|„[^“”]{1,200}[“”]|(?:^|[\s(])['‘][^'’]{1,200}['’](?=$|[\s.,;:!?)])/u

test('a prompt requests text exactly according to the definition', () => {
  const mark = fc.constantFrom('"', '“', '”', '«', '»', '„', "'", '‘', '’', ' ', '(', ')', '.', 'a', '\n')
  const prompts = fc.oneof(
    fc.string({ unit: mark, maxLength: 30 }),
    fc
      .tuple(mark, fc.integer({ min: 198, max: 202 }), mark, mark)
      .map(([a, n, b, c]) => `${a}${'x'.repeat(n)}${b}${c}`),
  )
  fc.assert(
    fc.property(prompts, (prompt) => requestsText(prompt) === QUOTED.test(prompt)),
    { numRuns: 5000 },
  )
})
