// One worker, one GPU function and one browser for all tests of the page.
import { mkdir, mkdtemp, readdir, rm, symlink } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll } from 'vitest'
import { experimental_readRawConfig } from 'wrangler'
import { compileLora } from '../../../gpu-fn/compile/lora/lora.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { type Local, type LocalModels, startLocal } from '../../../infra/local/local.ts'
import { prepareBuiltInPackages } from '../../../infra/local/models/built-in-model.ts'
import { ROOT } from '../../../infra/local/models/package-cache.ts'
import type { LocalCatalog } from '../../../infra/local/servers/worker.ts'
import { launchBrowser } from '../../support/browser.ts'
import { writeRandomLora } from '../../support/lora.ts'

/** What the tests share, once `startWorld` has run. */
export const world = {} as { local: Local; browser: Browser }

/** The built-in models with the offers of wrangler.toml, and an adapter with random weights and trigger words. */
async function prepareModelsWithAdapter(scratch: string): Promise<LocalModels> {
  const { directory } = await prepareBuiltInPackages()
  const packages = path.join(scratch, 'packages')
  await mkdir(packages)
  const names = (await readdir(directory)).filter((name) => name.startsWith('nano'))
  for (const name of names) await symlink(path.join(directory, name), path.join(packages, name))
  const { manifest: base } = await openPackage(path.join(directory, 'nano-fp8'))
  const lora = path.join(scratch, 'ink.safetensors')
  await writeRandomLora(lora, base.position.width)
  await compileLora({ lora, base, out: path.join(packages, 'loras/ink') })
  const { rawConfig } = experimental_readRawConfig({ config: path.join(ROOT, 'wrangler.toml') })
  const { offers } = rawConfig.vars!.OCTET_CATALOG as LocalCatalog
  const models = ['nano-turbo', 'nano']
  const loras = [{ id: 'ink', models, scale: 0.8, trigger_words: ['ink drawing', 'black lines'] }]
  return { packages, preload: models.map((model) => `${model}:fp8`), offers, loras }
}

/** Starts everything before the tests of this file, and stops it after them. */
export function startWorld(): void {
  let scratch: string
  beforeAll(async () => {
    scratch = await mkdtemp(path.join(os.tmpdir(), 'octet-playground-'))
    const models = await prepareModelsWithAdapter(scratch)
    const [local, browser] = await Promise.all([startLocal({ models }), launchBrowser()])
    Object.assign(world, { local, browser })
  })
  afterAll(async () => {
    await Promise.all([world.local?.stop(), world.browser?.close()])
    await rm(scratch, { recursive: true })
  })
}
