// Signed links: their content, the required key, and their expiry.

import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, test, vi } from 'vitest'
import { AccountDO } from '../../../edge/accounts/account.ts'
import { issueKey } from '../../../edge/auth/keys.ts'
import { checkLink, type Link, signLink } from '../../../edge/auth/links.ts'
import { type Caller, fetchWorker, generate, generatedOf, newCaller, ORIGIN, problemOf } from '../support/client.ts'
import { createConfigWith, peppers } from '../support/config.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { call } from '../support/operator.ts'

afterEach(() => vi.restoreAllMocks())

const OLD = createConfigWith({ KEY_PEPPER: `1:${'a'.repeat(32)}` }).peppers
const NEW = createConfigWith({ KEY_PEPPER: `2:${'b'.repeat(32)}` }).peppers

test('a signature is valid only for its path, expiry and key, while its pepper is listed', async ({ expect }) => {
  const link: Link = { path: '/v1/results/a/0.png', expires: 1000, key: '0123456789ab' }
  const url = new URL(await signLink(OLD, link), ORIGIN)
  expect([url.pathname, url.searchParams.get('exp'), url.searchParams.get('key')]).toEqual([
    link.path,
    '1000',
    link.key,
  ])
  const sig = url.searchParams.get('sig')!
  for (const peppers of [OLD, [...NEW, ...OLD] as const]) expect(await checkLink(peppers, link, sig)).toBe(true)
  expect(await checkLink(NEW, link, sig)).toBe(false)
  const others = [{ path: '/v1/results/b/0.png' }, { expires: 1001 }, { key: 'ffffffffffff' }, { key: null }]
  for (const other of others) expect(await checkLink(OLD, { ...link, ...other }, sig)).toBe(false)
  for (const wrong of ['', '1', sig.slice(0, -1), `${sig}0`]) expect(await checkLink(OLD, link, wrong)).toBe(false)
})

let owner: Caller
let job: string
let link: string
beforeEach(async () => {
  owner = await newCaller()
  fakeGpu(works)
  const { data, octet } = await generatedOf(await generate(owner, { prompt: 'a cat' }))
  job = octet.job
  link = data[0]!.url!
})

const open = async (url: string, headers: Record<string, string> = {}) => {
  const response = await fetchWorker(url, { headers })
  const code = response.ok ? null : (await problemOf(response)).error.code
  if (response.ok) await response.arrayBuffer()
  return [response.status, code]
}
const linkFrom = async (headers: Record<string, string>) => {
  const { body } = await call<{ images: { url: string }[] }>('GET', `/v1/jobs/${job}`, headers)
  return body.images[0]!.url
}
const openAccount = () => env.ACCOUNT.getByName(owner.account)
/** Another key of the account. */
async function createSecondKey() {
  const { key, credential } = await issueKey(peppers, owner.account)
  await openAccount().addKey(credential)
  return { id: credential.keyId, headers: { authorization: `Bearer ${key}` } }
}
/** Clears the isolate's cache of key states. */
function expireKeyStates() {
  const now = Date.now() + 6000
  vi.spyOn(Date, 'now').mockReturnValue(now)
}

describe('a link', () => {
  test('takes precedence over an unrelated Authorization header', async ({ expect }) => {
    const stranger = await newCaller()
    const unrelated = [
      'Basic YTpi',
      'Bearer ey.of.another.service',
      stranger.headers.authorization!,
      `Bearer ${'x'.repeat(99)}`,
    ]
    for (const authorization of unrelated) expect(await open(link, { authorization })).toEqual([200, null])
  })

  test('is ignored if it is invalid and the request has a key with access to the result', async ({ expect }) => {
    const broken = link.replace('sig=', 'sig=0')
    expect(await open(broken)).toEqual([403, 'link_invalid'])
    expect(await open(broken, { authorization: 'Basic YTpi' })).toEqual([403, 'link_invalid'])
    expect(await open(broken, owner.headers)).toEqual([200, null])
    expect(await open(broken, (await newCaller()).headers)).toEqual([404, 'not_found'])
  })

  test('with a malformed or unknown key id is invalid', async ({ expect }) => {
    for (const key of ['x', '0123456789ab', 'a'.repeat(1000)])
      expect(await open(`${link}&key=${key}`)).toEqual([403, 'link_invalid'])
  })

  test('becomes invalid with the revocation of its key, once the cache of the isolate has expired', async ({
    expect,
  }) => {
    expect(await open(link)).toEqual([200, null])
    await openAccount().revokeKey(owner.keyId)
    expireKeyStates()
    expect(await open(link)).toEqual([403, 'link_revoked'])
  })

  test('signed for another key stays valid when the job’s key is revoked, and ends with its own key', async ({
    expect,
  }) => {
    const second = await createSecondKey()
    const theirs = await linkFrom(second.headers)
    expect(theirs).toContain(`key=${second.id}`)
    await openAccount().revokeKey(owner.keyId)
    expect(await open(theirs)).toEqual([200, null])
    expect(await open(link)).toEqual([403, 'link_revoked'])
    await openAccount().revokeKey(second.id)
    expireKeyStates()
    expect(await open(theirs)).toEqual([403, 'link_revoked'])
  })

  test('stays valid after a rotation of its key, unless the old key ends immediately', async ({ expect }) => {
    const next = await issueKey(peppers, owner.account)
    await openAccount().rotateKey(owner.keyId, next.credential, Date.now() + 1000)
    expireKeyStates()
    expect(await open(link)).toEqual([200, null])
    const theirs = await linkFrom({ authorization: `Bearer ${next.key}` })
    const last = await issueKey(peppers, owner.account)
    await openAccount().rotateKey(next.credential.keyId, last.credential, Date.now())
    expect(await open(theirs)).toEqual([403, 'link_revoked'])
  })

  test('becomes invalid when its key expires', async ({ expect }) => {
    await openAccount().changeKey(owner.keyId, { expires: Date.now() + 3000 })
    expireKeyStates()
    expect(await open(link)).toEqual([403, 'link_revoked'])
  })

  test('calls the account at most once in five seconds', async ({ expect }) => {
    const asked = vi.spyOn(AccountDO.prototype, 'areLinksValid')
    for (const _ of [1, 2, 3]) expect(await open(link)).toEqual([200, null])
    expect(asked).toHaveBeenCalledTimes(1)
    expireKeyStates()
    expect(await open(link)).toEqual([200, null])
    expect(asked).toHaveBeenCalledTimes(2)
  })
})
