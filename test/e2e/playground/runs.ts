// The playground in Chromium, with the worker and the GPU function behind it.
import { execFile } from 'node:child_process'
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import type { Page } from 'playwright-core'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { pageOf } from '../../../infra/local/local.ts'
import { visit } from '../../support/browser.ts'
import { world } from './world.ts'

let scratch: string
beforeAll(async () => {
  scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-playground-'))
})
afterAll(() => fs.rm(scratch, { recursive: true }))

const open = (options = {}, expected?: RegExp) => visit(world.browser, pageOf(world.local), options, expected)
const findButton = (page: Page, name: string | RegExp) => page.getByRole('button', { name })
const choose = (page: Page, group: string, name: string) =>
  page.getByRole('group', { name: group }).locator('label', { hasText: name }).click()
/** Describes an image and waits for its price. */
async function describePrompt(page: Page, prompt: string, route = 'Turbo'): Promise<void> {
  await page.getByLabel('Prompt', { exact: true }).fill(prompt)
  await choose(page, 'Route', route)
  await page.locator('.run .price').waitFor()
}
const waitUntilDone = (page: Page) => findButton(page, 'Download').first().waitFor({ timeout: 60_000 })
const findDialog = (page: Page) => page.getByRole('dialog')

describe('access', () => {
  test('without a key the page requests one, and it explains an invalid one', async () => {
    const { page, problems, close } = await visit(world.browser, world.local.url, {}, /401/)
    await page.getByText('Paste a key to begin').waitFor()
    const field = page.getByLabel('API key')
    await field.fill('nonsense')
    await findButton(page, 'Use key').click()
    await page.getByText('This is not a key. Keys have the form oct_account_….').waitFor()
    await field.fill(`${world.local.key.slice(0, -4)}0000`)
    await findButton(page, 'Use key').click()
    await page.getByText('This API key is invalid or was revoked.').waitFor()
    await field.fill(world.local.key)
    await findButton(page, 'Use key').click()
    await page.getByText('Type a prompt to see its price, route and time.').waitFor()
    expect(problems).toEqual([])
    await close()
  })

  test('a key in the address is removed from there and kept for the tab', async () => {
    const { page, close } = await open()
    await findButton(page, 'Access: local').waitFor()
    expect(page.url()).toBe(`${world.local.url}/`)
    expect(await page.evaluate(() => Object.values(localStorage).join())).not.toContain(world.local.key)
    await page.reload()
    await findButton(page, 'Access: local').click()
    await findButton(page, 'Forget the key').click()
    await findDialog(page).waitFor()
    expect(await page.evaluate(() => sessionStorage.length)).toBe(0)
    await close()
  })
})

describe('a run', () => {
  test('shows its price and route before, steps and previews during, and the image after it', async () => {
    const { page, problems, close } = await open()
    await describePrompt(page, 'a red heart on a blue background', 'Full')
    const bar = page.locator('.run-bar')
    await bar.getByText('nano, 28 steps').waitFor()
    await bar.getByText('The request names the full route.').waitFor()
    await bar.getByText(/No runs measured yet|About .* s, from/).waitFor()
    await bar.getByText('GPU is warm').waitFor({ timeout: 15_000 })
    const [, price] = (await page.locator('.run').innerText()).match(/\$([\d.]+)/)!
    await page.keyboard.press('Control+Enter')

    await page.getByText(/^Step \d+ of 28$/).waitFor({ timeout: 30_000 })
    await page.getByAltText('Preview of the run in progress').waitFor({ timeout: 30_000 })
    const shown = Number(await page.getByRole('progressbar', { name: 'Generating' }).getAttribute('aria-valuenow'))
    expect(shown).toBeGreaterThan(0)
    expect(await page.title()).toMatch(/^\d+% · Octet$/)
    await waitUntilDone(page)
    const picture = page.getByAltText('Generated: a red heart on a blue background')
    const naturalWidth = await picture.evaluate((image) => (image as unknown as { naturalWidth: number }).naturalWidth)
    expect(naturalWidth).toBe(256)
    await page
      .locator('.facts')
      .getByText(new RegExp(`nano · 28 steps · seed \\d+ · .* · \\$${price}`))
      .waitFor()
    expect(await page.title()).toBe('Octet')
    expect(problems).toEqual([])
    await close()
  })

  test('can be canceled, and then shows the charge', async () => {
    const { page, problems, close } = await open()
    await describePrompt(page, 'a rocket in the night sky', 'Full')
    await findButton(page, /^Run/).click()
    await page.getByText(/^Step \d+ of 28$/).waitFor({ timeout: 30_000 })
    await findButton(page, 'Cancel').click()
    await page.getByText(/Canceled\. Charged \$0\.\d+ for the completed steps\./).waitFor({ timeout: 30_000 })
    expect(problems).toEqual([])
    await close()
  })

  test('starts from an input image, and repaints the masked part', async () => {
    const { page, problems, close } = await open()
    await describePrompt(page, 'a red heart on a blue background')
    const [, whole] = (await page.locator('.run').innerText()).match(/\$([\d.]+)/)!
    const file = { create: { width: 128, height: 128, channels: 3, background: 'blue' } } as const
    const buffer = await sharp(file).png().toBuffer()
    const field = page.getByLabel('Input image', { exact: true }).last()
    await field.setInputFiles({ name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('notes') })
    const refusal = page.getByText('This file is not an image that the browser can show.')
    await refusal.waitFor()
    await field.setInputFiles({ name: 'blue.png', mimeType: 'image/png', buffer })
    await refusal.waitFor({ state: 'detached' })
    const mask = page.getByLabel('Mask: paint the part to repaint')
    await mask.waitFor()
    await page.getByLabel(/^Strength/).fill('0.5')
    await expect.poll(async () => (await page.locator('.run').innerText()).match(/\$([\d.]+)/)?.[1]).not.toBe(whole)
    const { x, y, width, height } = (await mask.boundingBox())!
    await page.mouse.move(x + width / 4, y + height / 2)
    await page.mouse.down()
    await page.mouse.move(x + (3 * width) / 4, y + height / 2, { steps: 4 })
    await page.mouse.up()
    const sent = page.waitForRequest((request) => request.method() === 'POST' && request.url().endsWith('/v1/jobs'))
    await findButton(page, /^Run/).click()
    const body = (await sent).postDataJSON() as { image: string; mask: string; strength: number }
    expect(body).toMatchObject({ strength: 0.5, image: expect.stringMatching(/^data:image\/png;base64,/) })
    const drawn = await sharp(Buffer.from(body.mask.split(',')[1]!, 'base64')).stats()
    expect(drawn.channels[0]!.mean).toBeGreaterThan(2)
    await waitUntilDone(page)
    await findButton(page, 'Remove the image').click()
    await page.getByText('Optional: choose, drop or paste an image to start from.').waitFor()
    expect(problems).toEqual([])
    await close()
  })

  test('that is refused is explained in words, at its field', async () => {
    const { page, close } = await open({}, /40[0-9]|422/)
    await page.getByLabel('Prompt', { exact: true }).fill('a cat')
    await page.getByText('More settings').click()
    await page.getByLabel('Steps', { exact: true }).fill('500')
    await page.getByText(/^steps is 500; it must be an integer from 1 to \d+\.$/).waitFor()
    expect(await page.getByLabel('Steps', { exact: true }).getAttribute('aria-invalid')).toBe('true')
    await page.getByLabel('Steps', { exact: true }).fill('')
    await page.getByLabel('Prompt', { exact: true }).fill('   ')
    await findButton(page, /^Run/).click()
    await page.getByText('The prompt is empty. Describe the image first.').waitFor()
    await close()
  })
})

describe('results', () => {
  test('turbo and full are compared at one seed, by mouse and by keyboard', async () => {
    const { page, problems, close } = await open()
    await describePrompt(page, 'a sunflower on the grass', 'Both')
    await page.locator('.run-bar').getByText('nano-turbo, 4 steps · nano, 28 steps').waitFor()
    await findButton(page, /^Run/).click()
    const slider = page.getByRole('slider', { name: 'Share of turbo shown' })
    await slider.waitFor({ timeout: 60_000 })
    await slider.focus()
    for (let k = 0; k < 10; k++) await page.keyboard.press('ArrowLeft')
    expect(await slider.getAttribute('aria-valuetext')).toBe('turbo 40 percent')
    const clip = await page.evaluate<string>('getComputedStyle(document.querySelector(".compare .over")).clipPath')
    expect(clip).toBe('inset(0px 60% 0px 0px)')
    const { x, y, width, height } = (await slider.boundingBox())!
    await page.mouse.click(x + width * 0.8, y + height / 2)
    expect(Number(await slider.inputValue())).toBeGreaterThan(70)
    await choose(page, 'View', 'Side by side')
    expect(await page.locator('.pair img').count()).toBe(2)
    expect(problems).toEqual([])
    await close()
  })

  test('the history with its parameters survives a reload, and fills the form', async () => {
    const { page, problems, close } = await open()
    await describePrompt(page, 'three strawberries on a white background')
    await page.getByLabel('Seed', { exact: true }).fill('48151623')
    await findButton(page, /^Run/).click()
    await waitUntilDone(page)
    await page.locator('.tile img').waitFor()
    await page.getByLabel('Prompt', { exact: true }).fill('something else')
    await page.reload()
    const tile = page.getByRole('button', { name: /three strawberries .* seed 48151623, turbo done/ })
    await tile.click()
    expect(await page.getByLabel('Prompt', { exact: true }).inputValue()).toBe('something else')
    await findButton(page, 'Use settings').click()
    expect(await page.getByLabel('Prompt', { exact: true }).inputValue()).toBe(
      'three strawberries on a white background',
    )
    expect(await page.getByLabel('Seed', { exact: true }).inputValue()).toBe('48151623')
    expect(problems).toEqual([])
    await close()
  })

  test('a reload during a run follows it to its end', async () => {
    const { page, problems, close } = await open()
    await describePrompt(page, 'an octopus in the sea', 'Full')
    await findButton(page, /^Run/).click()
    await page.getByText(/^Step \d+ of 28$/).waitFor({ timeout: 30_000 })
    await page.reload()
    await page.getByText(/^Step \d+ of 28$/).waitFor({ timeout: 30_000 })
    await waitUntilDone(page)
    expect(problems).toEqual([])
    await close()
  })

  test('the image is downloaded with its receipt, which the page and the command line verify', async () => {
    const { page, problems, close } = await open({ acceptDownloads: true })
    await describePrompt(page, "a cat's face")
    await findButton(page, /^Run/).click()
    await waitUntilDone(page)
    await findButton(page, 'Receipt').click()
    await page.getByText('The receipt is valid: this deployment signed this file.').waitFor()
    const saved: string[] = []
    page.on('download', (file) => {
      const to = path.join(scratch, file.suggestedFilename())
      void file.saveAs(to).then(() => saved.push(to))
    })
    await findButton(page, 'Download with receipt').click()
    await expect.poll(() => saved.length, { timeout: 10_000 }).toBe(2)
    const [receipt, image] = saved.toSorted((a, b) => Number(a.endsWith('.png')) - Number(b.endsWith('.png')))
    expect(path.basename(image!)).toMatch(/^octet-\d+\.png$/)
    expect(await sharp(image!).metadata()).toMatchObject({ width: 256, height: 256 })
    const verify = path.join(import.meta.dirname, '../../../infra/receipts/verify.ts')
    const { stdout } = await promisify(execFile)(process.execPath, [
      ...[verify, image!, receipt!, '--jwks', `${world.local.url}/.well-known/jwks.json`],
    ])
    expect(stdout).toContain('signature')
    expect(problems).toEqual([])
    await close()
  })

  test('the copied code generates the same image, and the link fills the form', async () => {
    const { page, problems, close } = await open({ permissions: ['clipboard-read', 'clipboard-write'] })
    await describePrompt(page, 'a dog\'s face, "happy"', 'Turbo')
    await findButton(page, /^Run/).click()
    await waitUntilDone(page)
    const sha256 = async (url: string) => {
      const bytes = await (await fetch(url)).arrayBuffer()
      return Buffer.from(await crypto.subtle.digest('SHA-256', bytes)).toString('hex')
    }
    const address = new URL((await page.getByAltText(/^Generated: a dog/).getAttribute('src'))!, world.local.url)
    const expected = await sha256(address.href)
    await findButton(page, 'Code').click()
    const copy = async (language: string) => {
      await choose(page, 'Language', language)
      await findDialog(page).getByRole('button', { name: /Cop/ }).click()
      return page.evaluate<string>('navigator.clipboard.readText()')
    }
    const env = { ...process.env, OCTET_KEY: world.local.key }
    const curl = await promisify(execFile)('bash', ['-c', await copy('curl')], { env })
    expect(JSON.parse(curl.stdout).data[0].sha256).toBe(expected)
    const script = path.join(import.meta.dirname, '../../../.octet/playground-snippet.mjs')
    await fs.writeFile(script, await copy('JavaScript'))
    const js = await promisify(execFile)(process.execPath, [script], { env }).finally(() => fs.rm(script))
    expect(await sha256(js.stdout.trim())).toBe(expected)
    for (const language of ['Python', 'Replicate']) expect(await copy(language)).toContain('OCTET_KEY')
    const link = await copy('Link')
    expect(link).toMatch(/\/#p=[\w-]+$/)
    await page.goto('about:blank')
    await page.goto(link)
    expect(await page.getByLabel('Prompt', { exact: true }).inputValue()).toBe('a dog\'s face, "happy"')
    expect(problems).toEqual([])
    await close()
  })
})
