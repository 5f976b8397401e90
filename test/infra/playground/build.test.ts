import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { publish } from '../../../infra/playground/build.ts'

async function makeScratch(parent: string): Promise<string> {
  const directory = await mkdtemp(path.join(parent, 'octet-page-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  return directory
}

const MEMORY = '/dev/shm'
const hasMemoryDisk = () => stat(MEMORY).then(Boolean, () => false)

test('a page that was built on another file system replaces the previous one', async () => {
  const built = await makeScratch((await hasMemoryDisk()) ? MEMORY : tmpdir())
  const dist = await makeScratch(tmpdir())
  await mkdir(path.join(built, 'assets'))
  await writeFile(path.join(built, 'index.html'), 'new page')
  await writeFile(path.join(built, 'assets/new.js'), 'new script')
  await writeFile(path.join(dist, 'index.html'), 'old page')
  await writeFile(path.join(dist, 'old.js'), 'old script')
  await writeFile(path.join(dist, '.assetsignore'), '.build')
  await publish(built, dist)
  expect((await readdir(dist)).sort()).toEqual(['.assetsignore', 'assets', 'index.html'])
  expect(await readdir(path.join(dist, 'assets'))).toEqual(['new.js'])
  expect(await readFile(path.join(dist, 'index.html'), 'utf8')).toBe('new page')
})
