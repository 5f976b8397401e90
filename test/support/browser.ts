// Chromium, as the system's package installs it, and pages that report everything that they log.
import { existsSync } from 'node:fs'
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'

const PATHS = [process.env.CHROMIUM ?? '', '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']

/** Starts the installed Chromium. Throws if there is none. */
export async function launchBrowser(): Promise<Browser> {
  const executablePath = PATHS.find((path) => path !== '' && existsSync(path))
  if (!executablePath)
    throw new Error('Chromium is missing: run "apt-get install -y chromium", or set CHROMIUM to its path')
  // Chromium's sandbox cannot be used as root.
  return chromium.launch({ executablePath, args: ['--no-sandbox'] })
}

export type Visit = {
  page: Page
  /** Errors and warnings of the console, and exceptions. Responses with an error status are left out if `expected` matches them. */
  problems: string[]
  close: () => Promise<void>
}

/** Opens an address in a new context. `expected` matches the messages that a test provokes, such as a rejected request. */
export async function visit(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
  expected = /^$/,
): Promise<Visit> {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options })
  const page = await context.newPage()
  const problems: string[] = []
  page.on('console', (message) => {
    const text = `${message.type()}: ${message.text()} ${message.location().url}`
    if (['error', 'warning'].includes(message.type()) && !expected.test(text)) problems.push(text)
  })
  page.on('pageerror', (error) => problems.push(String(error)))
  await page.goto(url)
  return { page, problems, close: () => context.close() }
}
