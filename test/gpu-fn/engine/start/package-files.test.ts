import { setImmediate } from 'node:timers/promises'
import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { PackageFiles } from '../../../../gpu-fn/engine/start/package-files.ts'
import type { Part } from '../../../../gpu-fn/engine/start/parts.ts'
import type { Package } from '../../../../gpu-fn/manifest.ts'
import { createArrival, waitForFiles } from '../../../../gpu-fn/weights/download/arrival.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import type { Verifier } from '../../../../gpu-fn/weights/verification.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'

let pkg: Package
beforeEach(async () => {
  pkg = await openPackage(await compileTiny({ tier: 'fp8' }))
})

/** A verifier whose verifications wait for the test, and the files of packages with it. */
function start() {
  const calls: { onFile: () => void; end: (error?: Error) => void }[] = []
  const verify: Verifier['verify'] = (_, onFile = () => {}) => {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    calls.push({ onFile, end: (error) => (error ? reject(error) : resolve()) })
    return promise
  }
  const parts: Part[] = []
  const files = new PackageFiles({ verify } as Verifier, parts)
  onTestFinished(() => files.stop())
  let progress = 0
  const watch = { progress: () => void progress++, end() {} }
  return { files, calls, parts, watch, progress: () => progress, names: () => parts.map(({ part }) => part) }
}

test('the first package is verified once, and a slow verification is progress of its load', async () => {
  const { files, calls, watch, progress, names } = start()
  files.begin(pkg)
  calls[0]!.onFile()
  const verified = files.verify(pkg, watch)
  await setImmediate()
  expect(progress()).toBe(0)
  calls[0]!.onFile()
  calls[0]!.onFile()
  expect(progress()).toBe(2)
  calls[0]!.end()
  await verified
  expect(calls).toHaveLength(1)
  expect(names()).toEqual(['verification'])
})

test('the first package is verified again in a later load, because its files may have changed', async () => {
  const { files, calls, watch } = start()
  files.begin(pkg)
  const failed = expect(files.verify(pkg, watch)).rejects.toThrow('corrupt')
  calls[0]!.end(new Error('corrupt'))
  await failed
  files.end()
  const again = files.verify(pkg, watch)
  await setImmediate()
  calls[1]!.end()
  await again
})

test('a package is verified after its download, whose error is that of the verification', async () => {
  const { files, calls, watch, names } = start()
  const download = Promise.withResolvers<void>()
  const arriving = { ...pkg, arrival: createArrival(pkg.manifest) }
  files.track({ package: arriving, complete: download.promise })
  files.begin(arriving)
  const verified = files.verify(arriving, watch)
  await setImmediate()
  expect(calls).toHaveLength(0)
  download.resolve()
  await files.waitForDownloads()
  await setImmediate()
  calls[0]!.end()
  await verified
  expect(names()).toEqual([`download of ${pkg.manifest.model}:fp8`, 'verification'])

  files.track({ package: arriving, complete: Promise.reject(new Error('the bucket is gone')) })
  await expect(files.verify(arriving, watch)).rejects.toThrow('the bucket is gone')
  await expect(files.waitForDownloads()).rejects.toThrow('the bucket is gone')
})

test('a stop ends the waits for files', async () => {
  const { files } = start()
  const arriving = { ...pkg, arrival: createArrival(pkg.manifest) }
  files.track({ package: arriving, complete: new Promise(() => {}) })
  const waiting = waitForFiles(arriving, () => true)
  files.stop()
  await expect(waiting).rejects.toThrow(/was not downloaded/)
})
