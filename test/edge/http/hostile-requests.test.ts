// Random requests to every route get a small error with a message, and never an internal error.
import fc from 'fast-check'
import { afterEach, beforeAll, test, vi } from 'vitest'
import { ACCESS } from '../../../edge/routes/access.ts'
import { type Caller, fetchWorker, IMAGE_FIELDS, newCaller } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { operator } from '../support/operator.ts'

const MAX_REPLY = 64 * 1024
const FIELDS = [
  ...IMAGE_FIELDS,
  ...[
    'label',
    'scopes',
    'limits',
    'expires_in',
    'account',
    'overlap_seconds',
    'scope',
    'budget_microdollars',
    'id',
    'note',
  ],
  ...[
    'amount_microdollars',
    'prepaid',
    'retention_days',
    'stripe_customer',
    'url',
    'events',
    'description',
    'signature',
    'since',
    'only',
  ],
  ...['__proto__', 'constructor', 'toString'],
]

const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom(
    '',
    'auto',
    'https://a.example/x',
    '1e999',
    '\u0000',
    '../..',
    '%',
    '%E0%A4%A',
    'a'.repeat(3000),
    '9'.repeat(400),
  ),
)
const value = fc.oneof(text, fc.double(), fc.integer(), fc.boolean(), fc.constant(null), fc.jsonValue({ maxDepth: 3 }))
const body = fc.oneof(
  fc.dictionary(fc.constantFrom(...FIELDS), value, { maxKeys: 6 }).map((fields) => JSON.stringify(fields)),
  fc.jsonValue({ maxDepth: 4 }).map((json) => JSON.stringify(json)),
  fc.string({ unit: 'binary', maxLength: 60 }),
)
const headerText = fc.string({ unit: fc.constantFrom(...' !"#=;,:/()[]{}*-_.0129abwxyz\t'), maxLength: 60 })
const headers = fc.dictionary(
  fc.constantFrom(
    'prefer',
    'range',
    'if-range',
    'if-none-match',
    'idempotency-key',
    'last-event-id',
    'x-request-id',
    'x-stainless-retry-count',
  ),
  headerText,
  { maxKeys: 3 },
)
const query = fc.dictionary(
  fc.constantFrom('limit', 'after', 'from', 'to', 'account', 'before', 'state', 'exp', 'sig', 'key', 'x'),
  text,
  { maxKeys: 3 },
)

let caller: Caller
beforeAll(async () => {
  caller = await newCaller({ scopes: ['generate', 'read', 'admin'] })
})
afterEach(() => vi.restoreAllMocks())

const routes = Object.entries(ACCESS).filter(([name]) => name !== 'DELETE /v1/keys/:id')
test.for(routes)('%s', { timeout: 120_000 }, async ([name, { by }], { expect }) => {
  fakeGpu(works, ...Array.from({ length: 200 }, () => works))
  const [method, path] = name.split(' ') as [string, string]
  const credential = by === 'operator' ? operator : caller.headers
  const request = fc.record({ body, headers, query, part: text, json: fc.boolean() })
  await fc.assert(
    fc.asyncProperty(request, async ({ body, headers, query, part, json }) => {
      const filled = path.replace(/:[a-z]+/g, () => encodeURIComponent(part.toWellFormed()).slice(0, 2000) || 'x')
      const search = new URLSearchParams(query).toString().slice(0, 4000)
      const response = await fetchWorker(`${filled}?${search}`, {
        method,
        headers: { ...headers, ...credential, 'content-type': json ? 'application/json' : 'text/plain' },
        ...(method !== 'GET' && { body }),
      })
      const reply = await response.text()
      expect(response.status, reply.slice(0, 300)).toBeLessThan(500)
      expect(reply.length).toBeLessThan(MAX_REPLY)
    }),
    { numRuns: 40 },
  )
})
