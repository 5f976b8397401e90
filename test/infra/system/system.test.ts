// A crash of the worker in the system of the crash campaign.
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { resetObjects } from '../../../infra/campaign/faults/faults.ts'
import { send } from '../../../infra/system/client.ts'
import { openAccount, startSystem } from '../../../infra/system/system.ts'

const START_MS = 120_000

let system: Awaited<ReturnType<typeof startSystem>>
beforeAll(async () => {
  system = await startSystem({
    gpus: ['a'],
    engine: { heartbeatMs: 500, stepMs: 1, unreadMs: 1000 },
    worker: { entrypoint: path.join(import.meta.dirname, '../../../infra/campaign/faults/worker-entry.ts') },
    startNetwork: async ([port]) => ({ url: `http://127.0.0.1:${port}`, stop: async () => {} }),
  })
}, START_MS)
afterAll(() => system?.close())

test('a killed worker refuses connections; after a restart, its state on disk is kept and its state in memory is lost', async () => {
  const { target, worker } = system
  const { key } = await openAccount(target, 'customer')
  const readJobs = () => send(`${target.url}/v1/jobs`, key)
  expect((await readJobs()).status).toBe(200)
  expect(await resetObjects(system)).toMatchObject({ 'ACCOUNT objects reset': 1 })
  await worker.kill()
  await worker.kill()
  await expect(readJobs()).rejects.toThrow()
  await worker.start()
  await worker.start()
  expect(await resetObjects(system)).toEqual({ deploys: 1 })
  expect((await readJobs()).status).toBe(200)
})
