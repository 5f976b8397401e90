// The end of a download on a file system that keeps open files in their directory, as NFS does.
import { mkdir, readFile, realpath, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, test, vi } from 'vitest'
import { waitForFiles } from '../../../../gpu-fn/weights/download/arrival.ts'
import { createArrivingPackage, isKept } from '../../../../gpu-fn/weights/download/arriving-package.ts'
import { sha256 } from '../../../../infra/checkpoints/fake-package.ts'
import { useScratch } from '../../../support/scratch.ts'

vi.mock('node:fs/promises', async (original) => {
  const fs = await original<typeof import('node:fs/promises')>()
  const rm: typeof fs.rm = (at, options) =>
    options?.recursive && String(at).includes('.arriving-')
      ? Promise.reject(new Error('not empty'))
      : fs.rm(at, options)
  return { ...fs, rm }
})

const scratch = useScratch()

async function arrive() {
  const packages = path.join(scratch.directory, 'packages')
  const manifest = { files: { a: { bytes: 1, sha256: sha256('a') } } } as never
  const arriving = await createArrivingPackage({ digest: 'd', bytes: new Uint8Array(), manifest }, packages)
  const blob = path.join(scratch.directory, 'blob')
  await writeFile(blob, 'a')
  const complete = path.join(packages, 'complete')
  await mkdir(complete)
  return { arriving, blob, complete }
}

test('a package is complete although its temporary directory cannot be removed yet', async () => {
  const { arriving, blob, complete } = await arrive()
  await arriving.add(sha256('a'), blob)
  expect(await readFile(path.join(arriving.package.directory, 'a'), 'utf8')).toBe('a')
  await arriving.complete(complete)
  expect(await realpath(arriving.package.directory)).toBe(await realpath(complete))
})

test('a time in the future is not that of a download in progress', () => {
  const ages = [-60_000, 0, 60_000]
  expect(ages.map((age) => isKept({ name: '.arriving-a', modified: Date.now() - age }))).toEqual([false, true, false])
})

test('a failed download ends the waits for its files although its directory cannot be removed yet', async () => {
  const { arriving } = await arrive()
  await arriving.discard()
  await expect(waitForFiles(arriving.package, () => true)).rejects.toThrow('a was not downloaded')
  await expect(realpath(arriving.package.directory)).rejects.toThrow('ENOENT')
})
