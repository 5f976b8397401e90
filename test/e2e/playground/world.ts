// One worker, one GPU function and one browser for all tests of the page.
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll } from 'vitest'
import { type Local, startLocal } from '../../../infra/local/local.ts'
import { launchBrowser } from '../../support/browser.ts'

/** What the tests share, once `startWorld` has run. */
export const world = {} as { local: Local; browser: Browser }

/** Starts everything before the tests of this file, and stops it after them. */
export function startWorld(): void {
  beforeAll(async () => {
    const [local, browser] = await Promise.all([startLocal(), launchBrowser()])
    Object.assign(world, { local, browser })
  })
  afterAll(async () => {
    await Promise.all([world.local?.stop(), world.browser?.close()])
  })
}
