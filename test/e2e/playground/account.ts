// The account tab in Chromium: usage, limits, keys, and webhooks with their deliveries.
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Scope } from '../../../edge/auth/scopes.ts'
import { createKey } from '../../../infra/operator/keys.ts'
import { visit } from '../../support/browser.ts'
import { world } from './world.ts'

/** A receiver of webhooks, and the types of the events that it got. */
let receiver: Server
const received: string[] = []
beforeAll(async () => {
  receiver = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    received.push((JSON.parse(body) as { type: string }).type)
    response.writeHead(204).end()
  }).listen(0, '127.0.0.1')
  await once(receiver, 'listening')
})
afterAll(() => {
  receiver.close()
})

const openAccount = async (key = world.local.key) => {
  const visited = await visit(world.browser, `${world.local.url}/#key=${key}`)
  await visited.page.getByRole('link', { name: 'Account' }).click()
  return visited
}
const newKey = (account: string, scopes: Scope[]) =>
  createKey({ url: world.local.url, token: world.local.adminToken }, account, { scopes })
const findSection = (page: Page, name: string) => page.getByRole('region', { name, exact: true })
const generate = (key: string, body: object) =>
  fetch(`${world.local.url}/v1/images/generations`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: 'a cat', size: '64x64', ...body }),
  })

test('usage is a chart by day and tier, with the same figures as a table', async () => {
  const { key } = await newKey('chart', ['generate', 'read', 'admin'])
  expect((await generate(key, { tier: 'fp8' })).status).toBe(200)
  expect((await generate(key, { tier: 'fp8-lite' })).status).toBe(200)
  const { page, problems, close } = await openAccount(key)
  const usage = findSection(page, 'Usage')
  await usage.getByText('Jobs', { exact: true }).first().waitFor()
  const bars = usage.locator('svg rect title')
  expect((await bars.allTextContents()).map((title) => title.replace(/^\S+ /, ''))).toEqual([
    expect.stringMatching(/^fp8: 1 job, \$0\.0/),
    expect.stringMatching(/^fp8-lite: 1 job, \$0\.0/),
  ])
  await usage.getByText('As a table').click()
  expect(await usage.getByRole('row').count()).toBe(3)
  await usage.locator('label', { hasText: '7 days' }).click()
  await expect.poll(() => usage.locator('svg .grid > text').count()).toBe(7)
  const limits = findSection(page, 'Limits')
  expect(await limits.getByRole('row', { name: /Spending per day/ }).innerText()).toMatch(/\$10\.00\s+no limit/)
  expect(problems).toEqual([])
  await close()
})

test('a key is created, shown once, rotated and revoked', async () => {
  const { page, problems, close } = await openAccount()
  const keys = findSection(page, 'Keys')
  await keys.getByRole('button', { name: 'New key' }).click()
  await page.getByLabel('Label').fill('web service')
  await page.getByRole('button', { name: 'Create the key' }).click()
  const secret = await page.locator('.secret').innerText()
  expect(secret).toMatch(/^oct_local_/)
  const fetchModels = () => fetch(`${world.local.url}/v1/models`, { headers: { authorization: `Bearer ${secret}` } })
  expect((await fetchModels()).status).toBe(200)
  await page.getByRole('button', { name: 'I saved it' }).click()
  await keys.getByRole('row', { name: /web service/ }).waitFor()
  expect(await page.content()).not.toContain(secret)

  await keys.getByRole('button', { name: 'Rotate' }).first().click()
  expect(await page.locator('.secret').innerText()).not.toBe(secret)
  await page.getByRole('button', { name: 'I saved it' }).click()
  await expect.poll(() => keys.getByRole('row', { name: /web service/ }).count()).toBe(2)
  const active = keys.getByRole('row', { name: /web service.*Revoke/ })
  for (let left = await active.count(); left > 0; left--) {
    await active.first().getByRole('button', { name: 'Revoke' }).click()
    await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click()
    await expect.poll(() => active.count()).toBe(left - 1)
  }
  await expect.poll(async () => (await fetchModels()).status).toBe(401)
  expect(problems).toEqual([])
  await close()
})

test('a webhook is added, tested, and its delivery is sent again', async () => {
  const { page, problems, close } = await openAccount()
  const webhooks = findSection(page, 'Webhooks')
  const { port } = receiver.address() as AddressInfo
  await webhooks.getByLabel('New endpoint').fill(`http://localhost:${port}/hook`)
  await webhooks.getByRole('button', { name: 'Add' }).click()
  expect(await page.locator('.secret').innerText()).toMatch(/^whsec_/)
  await page.getByRole('button', { name: 'I saved it' }).click()
  await webhooks.getByRole('button', { name: 'Send test' }).click()
  await webhooks.locator('.state.delivered').first().waitFor({ timeout: 20_000 })
  expect(received).toEqual(['webhook.test'])
  await webhooks.getByRole('button', { name: 'Resend' }).first().click()
  await expect.poll(() => received, { timeout: 20_000 }).toEqual(['webhook.test', 'webhook.test'])
  await webhooks.getByText(/^2 attempts, status 204/).waitFor({ timeout: 20_000 })
  await webhooks.getByRole('button', { name: /^Remove/ }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click()
  await webhooks.getByText(`http://localhost:${port}/hook`).waitFor({ state: 'detached' })
  expect(problems).toEqual([])
  await close()
})

test('a key without the scope admin shows its own data, and the reason why the rest is missing', async () => {
  const { key } = await newKey('local', ['generate', 'read'])
  const { page, problems, close } = await openAccount(key)
  await findSection(page, 'Keys').getByText('Keys are managed with a key that has the scope admin.').waitFor()
  await findSection(page, 'Limits').getByText('$10.00').waitFor()
  expect(await page.getByRole('button', { name: /New key|Resend|Send test/ }).count()).toBe(0)
  expect(problems).toEqual([])
  await close()
})
