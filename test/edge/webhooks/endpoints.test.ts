// /v1/webhooks: endpoints, their keys, their deliveries, and replays.

import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { Webhook } from 'standardwebhooks'
import { describe, test } from 'vitest'
import { issueKey } from '../../../edge/auth/keys.ts'
import { announce, eventOf } from '../../../edge/jobs/announcement.ts'
import { EVENT_TYPES } from '../../../edge/webhooks/endpoints/event-types.ts'
import { newSigningKey, newSigningKeys } from '../../../edge/webhooks/endpoints/signature.ts'
import { type Caller, fetchWorker, newCaller, problemOf } from '../support/client.ts'
import { peppers } from '../support/config.ts'
import { createFinalJob } from '../support/jobs.ts'
import {
  addEndpoint,
  callWebhookApi,
  deliveriesOf,
  newManager,
  outboxOf,
  testWithReceiver,
  waitForDeliveries,
} from '../support/manager.ts'
import { RECEIVER, type ReceivedRequest, waitForRequests } from '../support/receiver.ts'

let caller: Caller
let calls: ReceivedRequest[]
testWithReceiver((...fresh) => {
  ;[caller, calls] = fresh
})

const readJson = async (response: Response | Promise<Response>) => (await response).json()

/** Verifies `v1a` as a receiver would, from the public key alone. The library standardwebhooks (1.1.1) skips all but `v1`. */
async function verifyEd25519({ headers, body }: ReceivedRequest, publicKey: string): Promise<boolean> {
  const raw = Uint8Array.fromBase64(publicKey.replace('whpk_', ''))
  const key = await crypto.subtle.importKey('raw', raw, 'Ed25519', false, ['verify'])
  const content = new TextEncoder().encode(`${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`)
  const signatures = headers['webhook-signature']!.split(' ').filter((each) => each.startsWith('v1a,'))
  const checked = signatures.map((each) =>
    crypto.subtle.verify('Ed25519', key, Uint8Array.fromBase64(each.slice(4)), content),
  )
  return (await Promise.all(checked)).includes(true)
}

describe('an endpoint', () => {
  test('is created, read, changed and deleted; its secret is shown once', async ({ expect }) => {
    const made = await addEndpoint(caller, { description: 'orders' })
    expect(made).toMatchObject({ object: 'webhook_endpoint', description: 'orders', disabled: false })
    expect(made.secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
    const read = await readJson(callWebhookApi(caller, 'GET', `/${made.id}`))
    expect(JSON.stringify(read)).not.toContain(made.secret)
    const { secret: _, ...withoutSecret } = made
    expect(read).toEqual(withoutSecret)
    const changed = await readJson(
      callWebhookApi(caller, 'PATCH', `/${made.id}`, { events: ['job.failed'], url: `${RECEIVER}/new` }),
    )
    expect(changed).toEqual({ ...withoutSecret, events: ['job.failed'], url: `${RECEIVER}/new` })
    expect(await readJson(callWebhookApi(caller, 'GET', ''))).toEqual({ object: 'list', data: [changed] })
    expect((await callWebhookApi(caller, 'DELETE', `/${made.id}`)).status).toBe(204)
    expect((await callWebhookApi(caller, 'DELETE', `/${made.id}`)).status).toBe(404)
    expect(await readJson(callWebhookApi(caller, 'GET', ''))).toEqual({ object: 'list', data: [] })
  })

  test('must have an allowed address', async ({ expect }) => {
    const { id } = await addEndpoint(caller)
    for (const [method, path] of [
      ['POST', ''],
      ['PATCH', `/${id}`],
    ] as const) {
      for (const url of [
        'http://hooks.customer.com',
        'https://127.0.0.1',
        'https://octet.test/v1/webhooks',
        'nonsense',
      ]) {
        const response = await callWebhookApi(caller, method, path, { url })
        expect([response.status, (await problemOf(response)).error]).toEqual([
          400,
          expect.objectContaining({ param: 'url', message: expect.stringContaining(`url is "${url}"; it must`) }),
        ])
      }
    }
  })

  test('is refused with a short message for an address of any length', async ({ expect }) => {
    const response = await callWebhookApi(caller, 'POST', '', { url: `${RECEIVER}/${'x'.repeat(10_000)}` })
    const { detail } = await problemOf(response)
    expect([response.status, detail.length < 300]).toEqual([400, true])
    expect(detail).toContain('it must have at most 2048 characters')
  })

  test('is refused with the name of the invalid field', async ({ expect }) => {
    const wrong = [
      [{ url: 1 }, 'url is 1; it must be an https:// address.'],
      [
        { url: RECEIVER, events: ['job.started'] },
        'events is ["job.started"]; it must be a list of job.succeeded, job.failed, job.canceled.',
      ],
      [{ url: RECEIVER, signature: 'rsa' }, 'signature is "rsa"; it must be one of hmac, ed25519.'],
    ] as const
    for (const [body, detail] of wrong) {
      const response = await callWebhookApi(caller, 'POST', '', body)
      expect([response.status, (await problemOf(response)).detail]).toEqual([400, detail])
    }
  })

  test('cannot be added to twenty others', async ({ expect }) => {
    const urls = Array.from({ length: 22 }, (_, k) => `https://hooks-${k}.octet-customer.com/in`)
    const made = await Promise.all(urls.map((url) => callWebhookApi(caller, 'POST', '', { url })))
    expect(made.map(({ status }) => status).toSorted()).toEqual([...Array(20).fill(201), 400, 400])
    const refused = made.find(({ status }) => status === 400)!
    expect((await problemOf(refused)).detail).toBe('An account has at most 20 webhook endpoints; delete one first.')
  })

  test('shows its query, which may contain a secret, only to keys that manage it', async ({ expect }) => {
    const url = `${RECEIVER}/in?token=secret`
    const { id, secret } = await addEndpoint(caller, { url })
    await announce(env, createFinalJob(caller, { webhook: `${RECEIVER}/mine?token=secret` }))
    await waitForDeliveries(caller)
    const { key, credential } = await issueKey(peppers, caller.account)
    await env.ACCOUNT.getByName(caller.account).addKey(credential, { label: 'reader', scopes: ['read'] })
    const reader = { ...caller, key, headers: { authorization: `Bearer ${key}` } }
    for (const path of ['', `/${id}`, `/${id}/deliveries`, '/default/deliveries']) {
      const shown = await (await callWebhookApi(reader, 'GET', path)).text()
      expect(shown).not.toContain('token')
      expect(shown).not.toContain(secret)
    }
    expect(await readJson(callWebhookApi(reader, 'GET', `/${id}`))).toMatchObject({ url: `${RECEIVER}/in?…` })
    expect(await readJson(callWebhookApi(caller, 'GET', `/${id}`))).toMatchObject({ url })
    expect(await deliveriesOf(caller, 'default')).toMatchObject([{ url: `${RECEIVER}/mine?token=secret` }])
  })

  test('belongs to its account, and requires the scope admin for management', async ({ expect }) => {
    const { id } = await addEndpoint(caller)
    const [stranger, reader] = [await newManager(), await newCaller()]
    const requests = [
      ['GET', `/${id}`],
      ['DELETE', `/${id}`],
      ['GET', `/${id}/deliveries`],
      ['POST', `/${id}/test`],
      ['POST', `/${id}/deliveries/evt_x/replay`],
    ] as const
    for (const [method, path] of requests) {
      expect((await callWebhookApi(stranger, method, path)).status).toBe(404)
      expect((await fetchWorker(`/v1/webhooks${path}`, { method })).status).toBe(401)
    }
    for (const [method, path] of [
      ['POST', ''],
      ['DELETE', `/${id}`],
      ['POST', `/${id}/test`],
      ['GET', '/default/secret'],
    ] as const)
      expect(
        (await callWebhookApi(reader, method, path, method === 'POST' ? { url: RECEIVER } : undefined)).status,
      ).toBe(403)
    expect((await callWebhookApi(reader, 'GET', '')).status).toBe(200)
  })
})

describe('keys', () => {
  test('an ed25519 endpoint shows its public key, which verifies its deliveries', async ({ expect }) => {
    const { public_key } = await addEndpoint(caller, { signature: 'ed25519' })
    expect(public_key).toMatch(/^whpk_[A-Za-z0-9+/]{43}=$/)
    await announce(env, createFinalJob(caller))
    await waitForRequests(calls, 1)
    expect(calls[0]!.headers['webhook-signature']).toMatch(/^v1a,\S{86}==$/)
    expect(await verifyEd25519(calls[0]!, public_key)).toBe(true)
    expect(await verifyEd25519({ ...calls[0]!, body: `${calls[0]!.body} ` }, public_key)).toBe(false)
  })

  test('the old and the new key sign during a rotation, and never a third', async ({ expect }) => {
    const { id, secret } = await addEndpoint(caller)
    const second = (await readJson(callWebhookApi(caller, 'POST', `/${id}/rotate`, {}))) as {
      secret: string
      keys: { expires: number | null }[]
    }
    expect(second.keys.map(({ expires }) => expires === null)).toEqual([true, false])
    await announce(env, createFinalJob(caller))
    await waitForRequests(calls, 1)
    for (const key of [secret, second.secret]) new Webhook(key).verify(calls[0]!.body, calls[0]!.headers)
    const third = (await readJson(callWebhookApi(caller, 'POST', `/${id}/rotate`, { signature: 'ed25519' }))) as {
      public_key: string
    }
    await announce(env, createFinalJob(caller))
    await waitForRequests(calls, 2)
    expect(() => new Webhook(secret).verify(calls[1]!.body, calls[1]!.headers)).toThrow('No matching')
    new Webhook(second.secret).verify(calls[1]!.body, calls[1]!.headers)
    expect(await verifyEd25519(calls[1]!, third.public_key)).toBe(true)
  })

  test('the old key ends with the overlap', async ({ expect }) => {
    const { id, secret } = await addEndpoint(caller)
    const { secret: next } = (await readJson(
      callWebhookApi(caller, 'POST', `/${id}/rotate`, { overlap_seconds: 0 }),
    )) as {
      secret: string
    }
    await announce(env, createFinalJob(caller))
    await waitForRequests(calls, 1)
    expect(() => new Webhook(secret).verify(calls[0]!.body, calls[0]!.headers)).toThrow('No matching')
    expect(new Webhook(next).verify(calls[0]!.body, calls[0]!.headers)).toMatchObject({ type: 'job.succeeded' })
  })

  test('the default secret is unchanged until a rotation, which needs no body', async ({ expect }) => {
    const readSecret = async () =>
      ((await readJson(callWebhookApi(caller, 'GET', '/default/secret'))) as { key: string }).key
    const first = await readSecret()
    expect(await readSecret()).toBe(first)
    const { secret: next } = (await readJson(callWebhookApi(caller, 'POST', '/default/rotate'))) as { secret: string }
    expect([next === first, await readSecret()]).toEqual([false, next])
  })
})

test('a test event is sent to an endpoint regardless of its filter', async ({ expect }) => {
  const { id, secret } = await addEndpoint(caller, { events: ['job.failed'] })
  const response = await callWebhookApi(caller, 'POST', `/${id}/test`)
  const { id: event } = (await response.json()) as { id: string }
  await waitForRequests(calls, 1)
  expect([response.status, calls[0]!.headers['webhook-id']]).toEqual([202, event])
  expect(new Webhook(secret).verify(calls[0]!.body, calls[0]!.headers)).toMatchObject({ type: 'webhook.test' })
})

describe('the delivery log', () => {
  test('lists each attempt with its status, newest event first, by page and state', async ({ expect }) => {
    const { id } = await addEndpoint(caller)
    for (const state of ['failed', 'canceled', 'succeeded'] as const) {
      await announce(env, createFinalJob(caller, { state }))
      await waitForDeliveries(caller)
    }
    const log = await deliveriesOf(caller, id)
    expect(log.map(({ type }) => type)).toEqual(['job.succeeded', 'job.canceled', 'job.failed'])
    expect(log[0]).toMatchObject({
      state: 'delivered',
      next_attempt: null,
      attempts: [{ status: 204, error: null, milliseconds: expect.any(Number), at: expect.stringMatching(/^20.*Z$/) }],
    })
    expect(await deliveriesOf(caller, id, '?limit=1')).toEqual(log.slice(0, 1))
    expect(await deliveriesOf(caller, id, '?state=exhausted')).toEqual([])
    const bad = await callWebhookApi(caller, 'GET', `/${id}/deliveries?state=lost&before=yesterday`)
    expect((await problemOf(bad)).errors).toMatchObject([{ param: 'before' }, { param: 'state' }])
  })
})

describe('replay', () => {
  test('of a range sends undelivered events, including those from a time when the endpoint was disabled', async ({
    expect,
  }) => {
    const { id } = await addEndpoint(caller)
    await announce(env, createFinalJob(caller))
    await waitForDeliveries(caller)
    await callWebhookApi(caller, 'PATCH', `/${id}`, { disabled: true })
    const missed = [createFinalJob(caller), createFinalJob(caller)]
    for (const job of missed) await announce(env, job)
    await callWebhookApi(caller, 'PATCH', `/${id}`, { disabled: false })
    const since = new Date(Date.now() - 60_000).toISOString()
    const response = await callWebhookApi(caller, 'POST', `/${id}/replay`, { since })
    expect([response.status, await response.json()]).toEqual([202, { object: 'webhook_replay', count: 2, next: null }])
    await waitForRequests(calls, 3)
    await waitForDeliveries(caller)
    const ids = calls.slice(1).map(({ headers }) => headers['webhook-id'])
    expect(new Set(ids)).toEqual(new Set(missed.map((job) => eventOf(job).id)))
    expect(await readJson(callWebhookApi(caller, 'POST', `/${id}/replay`, { since }))).toMatchObject({ count: 0 })
    expect(await readJson(callWebhookApi(caller, 'POST', `/${id}/replay`, { since, only: 'all' }))).toMatchObject({
      count: 3,
    })
    await waitForRequests(calls, 6)
  })

  test('is limited to its range and to the filter', async ({ expect }) => {
    const { id } = await addEndpoint(caller, { events: ['job.failed'] })
    const old = createFinalJob(caller, { state: 'failed' })
    for (const job of [old, createFinalJob(caller), createFinalJob(caller, { state: 'failed' })])
      await announce(env, job)
    await waitForDeliveries(caller)
    await runInDurableObject(outboxOf(caller), (_, { storage }) => {
      storage.sql.exec('UPDATE events SET created = created - 86400000 WHERE id = ?', eventOf(old).id)
    })
    const formatHour = (hours: number) => new Date(Date.now() - hours * 3_600_000).toISOString()
    const replay = (span: Record<string, string>) =>
      readJson(callWebhookApi(caller, 'POST', `/${id}/replay`, { only: 'all', ...span }))
    expect(await replay({ since: formatHour(1) })).toMatchObject({ count: 1 })
    expect(await replay({ since: formatHour(48), until: formatHour(1) })).toMatchObject({ count: 1 })
    expect(await replay({ since: formatHour(48) })).toMatchObject({ count: 2 })
    const bad = await callWebhookApi(caller, 'POST', `/${id}/replay`, { since: 'yesterday' })
    expect((await problemOf(bad)).detail).toBe('since is "yesterday"; it must be a time like "2026-11-22T10:00:00Z".')
  })

  test('of an unknown event is 404', async ({ expect }) => {
    const { id } = await addEndpoint(caller)
    expect((await callWebhookApi(caller, 'POST', `/${id}/deliveries/evt_none/replay`)).status).toBe(404)
    await announce(env, createFinalJob(caller))
    const event = (await deliveriesOf(caller, id))[0]!.event
    expect((await callWebhookApi(caller, 'POST', `/default/deliveries/${event}/replay`)).status).toBe(404)
  })
})

test('a registration or a rotation that is repeated after a reset of the object changes nothing', async ({
  expect,
}) => {
  const outbox = env.WEBHOOK.getByName((await newCaller()).account)
  const fields = { url: `${RECEIVER}/once`, events: [...EVENT_TYPES], description: '', disabled: null }
  const [first, keys] = [await newSigningKey('hmac'), await newSigningKeys()]
  const register = () => outbox.addEndpoint('wh_1', fields, first)
  expect([await register(), await register()]).toEqual(Array(2).fill({ kind: 'registered', id: 'wh_1' }))
  const rotate = () => outbox.rotate('wh_1', undefined, 60_000, keys)
  const rotated = await rotate()
  expect(await rotate()).toEqual(rotated)
  expect(rotated).toMatchObject({ shown: keys.hmac.shown, keys: [{ expires: null }, { expires: expect.any(Number) }] })
})
