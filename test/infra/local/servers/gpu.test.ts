import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { startGpu } from '../../../../infra/local/servers/gpu.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'
import { edgeKeys } from '../../../support/gpu/client.ts'

let packages: string
beforeAll(async () => {
  packages = await mkdtemp(path.join(tmpdir(), 'octet-packages-'))
  await cp(await compileTiny({ tier: 'fp8' }), path.join(packages, 'custom'), { recursive: true })
})
afterAll(() => rm(packages, { recursive: true }))

const program = process.execPath
afterEach(() => {
  process.execPath = program
  vi.unstubAllEnvs()
})

const start = (preload = 'custom:fp8', options: Partial<Parameters<typeof startGpu>[0]> = {}) => {
  const edgePublicKey = JSON.stringify(edgeKeys.publicKey.export({ format: 'jwk' }))
  return startGpu({ packages, preload, edgePublicKey, ...options })
}

test('starts despite variables for other GPU functions, and stops', async () => {
  vi.stubEnv('LOG_LEVEL', 'warn')
  vi.stubEnv('OCTET_INSECURE', '1')
  vi.stubEnv('OCTET_QUEUE', 'many')
  const { url, stop } = await start()
  expect((await fetch(`${url}/healthz`)).status).toBe(200)
  await stop()
  await expect(fetch(`${url}/healthz`)).rejects.toThrow('fetch failed')
})

test('waits for all sizes, if that is requested', async () => {
  const lines: string[] = []
  const settings = { OCTET_WARM: '64x64,96x64' }
  const { stop } = await start('custom:fp8', { waitsForAllSizes: true, settings, onLog: (line) => lines.push(line) })
  const logs = lines.map((line): { msg: string; sizes?: object[] } => JSON.parse(line))
  expect(logs.find(({ msg }) => msg === 'model warm')?.sizes).toHaveLength(2)
  await stop()
})

test('fails if the GPU function exits before it is ready, or its program is missing', async () => {
  await expect(start('large:fp8')).rejects.toThrow('OCTET_PRELOAD lists large:fp8, which is not among the packages')
  process.execPath = path.join(packages, 'no-such-program')
  await expect(start()).rejects.toThrow('ENOENT')
})
