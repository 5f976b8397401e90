// Modal's own SDK for TypeScript against a server that speaks its protocol.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { ModalClient } from 'modal'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { readDeployConfig } from '../../../infra/config.ts'
import { findModalPython } from '../../../infra/modal/python.ts'
import { type ModalServer, openModalServer } from '../../../infra/modal/server.ts'

const python = findModalPython()

describe.skipIf(!python)('the GPU function on Modal, from TypeScript', () => {
  const calls: [name: string, request: Record<string, unknown>][] = []
  let stop: () => void
  let server: ModalServer
  beforeAll(async () => {
    const child = spawn(python!, [path.join(import.meta.dirname, 'deploy.py'), 'serve'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const lines = createInterface(child.stdout)
    stop = () => child.stdin.end()
    const [address] = await once(lines, 'line')
    lines.on('line', (line) => calls.push(JSON.parse(line)))
    process.env.MODAL_SERVER_URL = JSON.parse(address)
    const client = new ModalClient({ tokenId: 'ak-test', tokenSecret: 'as-test' })
    server = await openModalServer(await readDeployConfig(), client)
  })
  afterAll(() => {
    server?.close()
    stop()
  })

  /** The calls of this name. They arrive on another channel than the reply, so they may be delayed. */
  const asked = (name: string) =>
    vi.waitFor(() => {
      const found = calls.filter(([called]) => called === name).map(([, request]) => request)
      return found.length > 0
        ? found
        : Promise.reject(new Error(`${name} was not asked; ${calls.map(([each]) => each)}`))
    }, 10_000)

  test('is found under the names of its deployment by modal_app.py', async () => {
    expect(await asked('FunctionGet')).toMatchObject([{ app_name: 'octet-gpu', object_tag: 'Gpu' }])
  })

  test('lists running containers and recent events', async () => {
    expect(await server.current()).toEqual({ containers: 2, backlog: 3 })
    const since = new Date('2026-11-26T00:00:00Z')
    expect(await server.since(since)).toEqual({ requests: 21, failed: 1, started: 4, broken: 1 })
    expect(await asked('FunctionGetTimeRangeStats')).toMatchObject([{ since: '2026-11-26T00:00:00Z' }])
  })

  test('is scaled', async () => {
    await server.scale({ minContainers: 1, maxContainers: 6, scaledownWindowMs: 90_000 })
    expect(await asked('FunctionUpdateSchedulingParams')).toMatchObject([
      { function_id: 'fu-1', settings: { min_containers: 1, max_containers: 6, scaledown_window: 90 } },
    ])
  })
})
