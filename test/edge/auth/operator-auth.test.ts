// The operator's token: accepted values, logs, and the lockout of addresses.
import { createExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { app } from '../../../edge/app.ts'
import { fetchWorker, ORIGIN, problemOf } from '../support/client.ts'

afterEach(() => vi.restoreAllMocks())

const paths = ['/v1/operator/status', '/v1/accounts/acme', '/v1/keys?account=acme']
const ask = (path: string, token: string, address: string) =>
  fetchWorker(path, { headers: { authorization: `Bearer ${token}`, 'cf-connecting-ip': address } })
/** Sends a request to a worker whose operator token is `configured`. */
const askWith = (configured: string | undefined, token: string, path = paths[0]!) =>
  app.fetch(
    new Request(new URL(path, ORIGIN), { headers: { authorization: `Bearer ${token}` } }),
    { ...env, OCTET_ADMIN_TOKEN: configured },
    createExecutionContext(),
  )

describe('the operator routes reject a configured token that', () => {
  const weak = ['replace-me', 'replace-me-with-at-least-32-random-characters', 'x'.repeat(31), '', undefined]
  test.for(weak)('%s', async (configured, { expect }) => {
    for (const path of paths) {
      const response = await askWith(configured, configured ?? 'x', path)
      expect([response.status, (await problemOf(response)).detail]).toEqual([
        401,
        'The operator routes are disabled: OCTET_ADMIN_TOKEN must have at least 32 random characters.',
      ])
    }
  })

  test('a configured token of 32 characters is accepted', async ({ expect }) => {
    const token = 'a-token-of-thirty-two-characters'
    expect((await askWith(token, token)).status).toBe(200)
    expect((await askWith(token, `${token}.`)).status).toBe(401)
  })
})

test('a wrong token is logged with a hash of the address, but without the address and the token', async ({
  expect,
}) => {
  const warn = vi.spyOn(console, 'warn')
  const address = '203.0.113.77'
  for (const from of [address, address, '203.0.113.78'])
    expect((await ask(paths[0]!, 'wrong-token', from)).status).toBe(401)
  const lines = warn.mock.calls.map(([line]) => String(line))
  const entries = lines.map((line) => JSON.parse(line) as { message: string; client: string; path: string })
  expect(entries).toMatchObject(Array(3).fill({ message: 'a wrong operator token', path: '/v1/operator/status' }))
  const [first, second, other] = entries.map(({ client }) => client)
  expect(first).toMatch(/^[0-9a-f]{16}$/)
  expect([second === first, other === first]).toEqual([true, false])
  expect(lines.join()).not.toMatch(/203\.0\.113|wrong-token/)
})

describe('too many wrong tokens', () => {
  test('lock their address out for a minute, even with the correct token; others are served', async ({ expect }) => {
    const [guesser, other] = [`guesser-${crypto.randomUUID()}`, `other-${crypto.randomUUID()}`]
    const statuses: number[] = []
    for (let i = 0; i < 60 && statuses.at(-1) !== 429; i++)
      statuses.push((await ask(paths[i % 3]!, `guess-${i}`, guesser)).status)
    expect(statuses.slice(0, 10)).toEqual(Array(10).fill(401))
    expect(statuses.at(-1)).toBe(429)
    const locked = await ask(paths[0]!, env.OCTET_ADMIN_TOKEN, guesser)
    expect([locked.status, locked.headers.get('retry-after')]).toEqual([429, '60'])
    expect((await ask(paths[0]!, env.OCTET_ADMIN_TOKEN, other)).status).toBe(200)
    vi.spyOn(Date, 'now').mockReturnValue(Date.now() + 61_000)
    expect((await ask(paths[0]!, env.OCTET_ADMIN_TOKEN, guesser)).status).toBe(200)
  })

  test('do not include requests with the correct token or without one', async ({ expect }) => {
    const limit = vi.spyOn(env.OPERATOR_LIMIT, 'limit')
    await ask(paths[0]!, env.OCTET_ADMIN_TOKEN, 'someone')
    await fetchWorker(paths[0]!)
    expect(limit).not.toHaveBeenCalled()
    await ask(paths[0]!, 'wrong', 'someone')
    expect(limit).toHaveBeenCalledOnce()
  })
})
