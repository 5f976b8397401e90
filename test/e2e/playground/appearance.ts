// How the page looks and loads: screenshots to review, accessibility by axe, weight, and time on a slow processor.
import fs from 'node:fs/promises'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import type { Page } from 'playwright-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { pageOf } from '../../../infra/local/local.ts'
import { visit } from '../../support/browser.ts'
import { world } from './world.ts'

const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js')

let screenshots: string
beforeAll(async () => {
  screenshots = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-screenshots-'))
  process.stdout.write(`Screenshots: ${screenshots}\n`)
})

type Axe = { run: () => Promise<{ violations: { id: string; impact: string; nodes: { html: string }[] }[] }> }

/** Violations that axe rates as serious or critical. */
async function findViolations(page: Page): Promise<string[]> {
  const found = await page.evaluate(() => (globalThis as unknown as { axe: Axe }).axe.run())
  return found.violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`)
}

const WIDTHS = [360, 1440]
const THEMES = ['light', 'dark'] as const
const CASES = WIDTHS.flatMap((width) => THEMES.map((colorScheme) => ({ width, colorScheme })))

describe.each(CASES)('$width px, $colorScheme', ({ width, colorScheme }) => {
  test('every view is accessible and does not scroll sideways', async () => {
    const isPhone = width < 500
    // Axe is added as a script of the context, which the page's policy does not restrict.
    const { page, problems, close } = await visit(world.browser, 'about:blank', {
      ...{ viewport: { width, height: isPhone ? 780 : 900 }, colorScheme },
      ...{ isMobile: isPhone, hasTouch: isPhone, reducedMotion: isPhone ? 'reduce' : 'no-preference' },
    })
    await page.context().addInitScript({ path: AXE })
    await page.goto(pageOf(world.local))
    const shoot = async (name: string, fullPage = isPhone) => {
      // The transition of colors after a change.
      await page.waitForTimeout(300)
      const file = path.join(screenshots, `${width}-${colorScheme}-${name}.png`)
      await page.screenshot({ path: file, fullPage })
      expect(await findViolations(page), name).toEqual([])
      expect(await page.evaluate<number>('document.documentElement.scrollWidth'), name).toBe(width)
    }
    await page.getByText('Describe an image. See the price first.').waitFor()
    await page.getByAltText('').last().scrollIntoViewIfNeeded()
    await shoot('empty')
    await page.getByLabel('Prompt', { exact: true }).fill('a red heart on a blue background')
    await page.getByRole('group', { name: 'Route' }).locator('label', { hasText: 'Turbo' }).click()
    await page.getByLabel('LoRA', { exact: true }).selectOption('ink')
    await page.locator('.run .price').waitFor()
    await page.getByRole('button', { name: /^Run/ }).click()
    await page.getByRole('progressbar').waitFor()
    await page.getByRole('button', { name: 'Download' }).waitFor({ timeout: 60_000 })
    await page.locator('.facts summary').click()
    await shoot('result')
    await page.getByRole('button', { name: 'Receipt' }).click()
    await page.locator('.verdict').waitFor()
    await shoot('receipt', false)
    await page.keyboard.press('Escape')
    await page.getByRole('button', { name: 'Code' }).click()
    await shoot('code', false)
    await page.keyboard.press('Escape')
    await page.getByRole('link', { name: 'Account' }).click()
    await page.locator('.chart').waitFor()
    await shoot('account', true)
    expect(problems).toEqual([])
    await close()
  })
})

test('the keyboard alone runs a prompt and moves through the history', async () => {
  const { page, problems, close } = await visit(world.browser, pageOf(world.local))
  await page.locator('.run').waitFor()
  await page.keyboard.press('/')
  await page.keyboard.type('a fish')
  await page.locator('.run .price').waitFor()
  await page.keyboard.press('Control+Enter')
  await page.getByRole('button', { name: 'Download' }).waitFor({ timeout: 60_000 })
  await page.locator('.stage').focus()
  await page.keyboard.press('?')
  await page.getByRole('dialog', { name: 'Keyboard' }).waitFor()
  await page.keyboard.press('Escape')
  await page.locator('.tile').first().focus()
  await page.keyboard.press('s')
  expect(await page.getByRole('button', { name: 'Keep the seed' }).getAttribute('aria-pressed')).toBe('true')
  expect(await page.getByRole('status').innerText()).toMatch(/^Done, \$0\.0/)
  expect(problems).toEqual([])
  await close()
})

/** A slow phone's processor compared with this one. */
const SLOWER = 6

test('the page transfers less than 150 kB; the time until it is usable is printed', async () => {
  const { page, close } = await visit(world.browser, 'about:blank')
  const session = await page.context().newCDPSession(page)
  await session.send('Network.enable')
  // Processor time of the main thread, which does not depend on other work on this machine.
  await session.send('Performance.enable', { timeDomain: 'threadTicks' })
  let bytes = 0
  session.on('Network.loadingFinished', ({ encodedDataLength }) => {
    bytes += encodedDataLength
  })
  await page.goto(world.local.url)
  await page.getByLabel('Prompt', { exact: true }).fill('a cat')
  const { metrics } = await session.send('Performance.getMetrics')
  const busy = 1000 * metrics.find(({ name }) => name === 'ThreadTime')!.value
  const slow = Math.round(busy * SLOWER)
  process.stdout.write(
    `Usable after ${Math.round(busy)} ms of work, ${slow} ms on a processor ${SLOWER} times slower\n`,
  )
  await page.waitForLoadState('networkidle')
  process.stdout.write(`The page has ${bytes} bytes over the wire, examples and font included\n`)
  expect(bytes).toBeGreaterThan(10_000)
  expect(bytes).toBeLessThan(150_000)
  await close()
})

test('the files of the page contain no paths of the machine that built them', async () => {
  const assets = path.join(import.meta.dirname, '../../../edge/dist/assets')
  const scripts = (await fs.readdir(assets)).filter((name) => name.endsWith('.js'))
  expect(scripts).not.toEqual([])
  for (const name of scripts)
    expect(await fs.readFile(path.join(assets, name), 'utf8')).not.toContain(path.join('edge', 'playground'))
})

test('the reference of the API is rendered without errors', async () => {
  for (const colorScheme of THEMES) {
    const { page, problems, close } = await visit(world.browser, `${world.local.url}/docs/`, { colorScheme })
    await page.getByText('/v1/images/generations').first().waitFor({ timeout: 20_000 })
    await page.screenshot({ path: path.join(screenshots, `docs-${colorScheme}.png`) })
    expect(problems).toEqual([])
    await close()
  }
})
