// Adapters on the page: chosen, applied, shared as code and as a link, and refused.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Page } from 'playwright-core'
import { expect, test } from 'vitest'
import { pageOf } from '../../../infra/local/local.ts'
import { visit } from '../../support/browser.ts'
import { world } from './world.ts'

const open = (options = {}, expected?: RegExp) => visit(world.browser, pageOf(world.local), options, expected)
const sha256Of = async (address: string) => {
  const bytes = await (await fetch(new URL(address, world.local.url))).arrayBuffer()
  return Buffer.from(await crypto.subtle.digest('SHA-256', bytes)).toString('hex')
}
/** Runs the form. Returns the request's adapters and the SHA-256 of the image. */
async function run(page: Page, n: number) {
  const sent = page.waitForRequest((request) => request.method() === 'POST' && request.url().endsWith('/v1/jobs'))
  await page.getByRole('button', { name: /^Run/ }).click()
  const { loras } = (await sent).postDataJSON() as { loras?: { id: string; scale: number }[] }
  await expect.poll(() => page.locator('.tile img').count(), { timeout: 60_000 }).toBe(n)
  const image = page.getByAltText(/^Generated: /)
  await image.waitFor({ timeout: 60_000 })
  return { loras, sha256: await sha256Of((await image.getAttribute('src'))!) }
}

test('an adapter is chosen, applied at its scale, and part of the code and of the link', async () => {
  const { page, problems, close } = await open({ permissions: ['clipboard-read', 'clipboard-write'] })
  await page.getByLabel('Prompt', { exact: true }).fill('a red heart on a blue background')
  await page.getByRole('group', { name: 'Route' }).locator('label', { hasText: 'Turbo' }).click()
  await page.getByLabel('Seed', { exact: true }).fill('7')
  const field = page.getByLabel('LoRA', { exact: true })
  expect(await field.locator('option').allInnerTexts()).toEqual(['None', 'ink'])
  await page.locator('.run .price').waitFor()
  const base = await run(page, 1)
  expect(base.loras).toBeUndefined()
  await field.selectOption('ink')
  await page.getByText('Responds to: ink drawing, black lines').waitFor()
  const scale = page.getByLabel('Scale of ink')
  expect(await scale.inputValue()).toBe('0.8')
  await scale.fill('0.5')
  const adapted = await run(page, 2)
  expect(adapted.loras).toEqual([{ id: 'ink', scale: 0.5 }])
  expect(adapted.sha256).not.toBe(base.sha256)
  await page.locator('.facts summary').click()
  await page.locator('.facts').getByText('ink, scale 0.5').waitFor()

  await page.getByRole('button', { name: 'Code' }).click()
  const copy = async (language: string) => {
    await page.getByRole('group', { name: 'Language' }).locator('label', { hasText: language }).click()
    await page.getByRole('dialog').getByRole('button', { name: /Cop/ }).click()
    return page.evaluate<string>('navigator.clipboard.readText()')
  }
  const env = { ...process.env, OCTET_KEY: world.local.key }
  const { stdout } = await promisify(execFile)('bash', ['-c', await copy('curl')], { env })
  expect(JSON.parse(stdout).data[0].sha256).toBe(adapted.sha256)
  for (const language of ['Python', 'JavaScript', 'Replicate']) expect(await copy(language)).toMatch(/"id": ?"ink"/)
  const link = await copy('Link')
  await page.keyboard.press('Escape')
  await page.getByRole('button', { name: 'Remove ink' }).click()
  await scale.waitFor({ state: 'detached' })
  await page.goto('about:blank')
  await page.goto(link)
  expect(await scale.inputValue()).toBe('0.5')
  expect(problems).toEqual([])
  await close()
})

test('an adapter that the account does not have is refused at the field, and can be removed', async () => {
  const { page, close } = await open({}, /400/)
  const fields = { prompt: 'a cat', size: '256x256', seed: 1, n: 1, loras: [{ id: 'gone', scale: 1 }, 5, { id: 2 }] }
  await page.goto('about:blank')
  await page.goto(`${world.local.url}/#p=${Buffer.from(JSON.stringify(fields)).toString('base64url')}`)
  await page.getByText('loras has the id "gone"; it must be one of ink.').waitFor()
  expect(await page.getByLabel('LoRA', { exact: true }).getAttribute('aria-invalid')).toBe('true')
  await page.getByRole('button', { name: 'Remove gone' }).click()
  await page.locator('.run .price').waitFor()
  expect(await page.locator('.loras li').count()).toBe(0)
  await close()
})
