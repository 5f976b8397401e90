// A visitor without a key, whose run starts the GPU function.
import fs from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { prepareBuiltInPackages } from '../../../infra/local/models/built-in-model.ts'
import { startGpu } from '../../../infra/local/servers/gpu.ts'
import { startWorker } from '../../../infra/local/servers/worker.ts'
import { createKey } from '../../../infra/operator/keys.ts'
import { createSecrets } from '../../../infra/operator/secrets.ts'
import { visit } from '../../support/browser.ts'
import { world } from './world.ts'

async function findFreePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

const START_SECONDS = 20

test('a visitor sees that the GPU is off before a run, and then the progress of its start', async () => {
  const [packages, { secrets, gpuPublicKey }, port] = await Promise.all([
    prepareBuiltInPackages(),
    createSecrets(),
    findFreePort(),
  ])
  const persist = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-cold-'))
  onTestFinished(() => fs.rm(persist, { recursive: true }))
  const vars = { OCTET_PREWARM: JSON.stringify({ start_seconds: START_SECONDS }) }
  const options = { gpuUrl: `http://127.0.0.1:${port}`, persist, secrets }
  const first = await startWorker(options)
  const { key } = await createKey({ url: first.url, token: secrets.OCTET_ADMIN_TOKEN }, 'visitors')
  await first.stop()
  const worker = await startWorker({ ...options, migrated: true, vars: { ...vars, PLAYGROUND_KEY: key } })
  onTestFinished(worker.stop)
  const { page, problems, close } = await visit(world.browser, worker.url)
  onTestFinished(close)
  await page.getByRole('button', { name: 'Access: Visitor' }).waitFor()

  await page.getByLabel('Prompt', { exact: true }).fill('a red heart')
  await page.getByText(`GPU is off, starts in about ${START_SECONDS} s at no cost`).waitFor()
  await page.getByRole('button', { name: /^Run/ }).click()
  const bar = page.getByRole('progressbar', { name: 'Starting the GPU' })
  await bar.waitFor({ timeout: 30_000 })
  const readBar = async () => Number(await bar.getAttribute('aria-valuenow'))
  const before = await readBar()
  await expect.poll(readBar, { timeout: 10_000 }).toBeGreaterThan(before)
  await page.getByText(/^\d+ s of about \d+ s\. Starting is free\.$/).waitFor()

  const preload = 'nano-turbo:fp8'
  const gpu = await startGpu({ packages: packages.directory, edgePublicKey: gpuPublicKey, preload, port })
  onTestFinished(gpu.stop)
  await page.getByRole('button', { name: 'Download' }).waitFor({ timeout: 60_000 })
  await page.getByText('GPU warm').waitFor()
  expect(await page.evaluate<string>('Object.values(sessionStorage).join()')).not.toContain(key)
  expect(problems).toEqual([])
})
