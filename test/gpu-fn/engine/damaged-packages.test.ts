// Packages that are incomplete or damaged when they load.
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { createArrival, endArrival, setArrived } from '../../../gpu-fn/weights/download/arrival.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { collect } from '../../support/engine/collect.ts'
import { useEngines } from '../../support/engine/engines.ts'
import { createJobBody } from '../../support/gpu/client.ts'

const engines = useEngines()
const startEngine = engines.start

test('a package whose download fails while it loads is not available', async () => {
  const pkg = await openPackage(path.join(engines.packages, 'custom-fp8'))
  const arrival = createArrival(pkg.manifest)
  const names = Object.keys(pkg.manifest.files)
  const { promise, reject } = Promise.withResolvers<void>()
  const fetchPackages = async () => [{ package: { ...pkg, arrival }, complete: promise }]
  const { engine } = await startEngine({ fetchPackages })
  const loading = engine.load(engine.models[0]!, undefined, { sizes: undefined }).catch((error: unknown) => error)
  for (const [file, name] of names.entries()) if (name !== 'transformer.weights') setArrived(arrival, file)
  endArrival(arrival)
  reject(new Error('the bucket is gone'))
  expect(await loading).toMatchObject({ code: 'model_not_available', cause: { message: 'the bucket is gone' } })
  await expect(engine.waitForDownloads()).rejects.toThrow('the bucket is gone')
  await expect(engine.load(engine.models[0]!)).rejects.toMatchObject({ code: 'model_not_available' })
})

test('a package damaged after startup is unavailable, and the others stay available', async () => {
  const directory = await mkdtemp(path.join(tmpdir(), 'octet-damaged-'))
  onTestFinished(() => rm(directory, { recursive: true }))
  await cp(engines.packages, directory, { recursive: true })
  const { engine } = await startEngine({ packages: directory })
  await truncate(path.join(directory, 'custom-fp32', 'transformer.onnx'), 100)
  const [damaged, sound] = engine.models
  // The run reports the fault rather than the cancellation.
  const canceled = AbortSignal.abort(new Error('enough'))
  await expect(
    collect(engine, createJobBody({ model: 'custom', steps: 2, tier: 'fp32' }), canceled),
  ).rejects.toMatchObject({ code: 'internal' })
  await expect(engine.load(damaged!)).rejects.toMatchObject({
    name: 'JobError',
    code: 'model_not_available',
    message: expect.not.stringContaining(directory),
  })
  expect((await engine.load(sound!)).seconds).toBeGreaterThan(0)
})

test('a package with one flipped bit fails to load every time, and other packages still load', async () => {
  const directory = path.join(engines.scratch, 'flipped')
  await cp(engines.packages, directory, { recursive: true })
  const weights = path.join(directory, 'custom-fp32', 'transformer.weights')
  const bytes = await readFile(weights)
  bytes[bytes.length >> 1]! ^= 1
  await writeFile(weights, bytes)
  const { engine } = await startEngine({ packages: directory })
  const [flipped, sound] = engine.models
  const failed = await engine.load(flipped!).catch((error) => error)
  expect(failed).toMatchObject({ name: 'JobError', code: 'model_not_available', cause: { name: 'PackageError' } })
  expect(failed.cause.message).toMatch(/transformer\.weights does not have the SHA-256/)
  expect(failed.message).not.toContain(directory)
  await expect(engine.load(flipped!)).rejects.toMatchObject({ code: 'model_not_available' })
  expect((await engine.load(sound!)).seconds).toBeGreaterThan(0)
})
