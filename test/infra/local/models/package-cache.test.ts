import { mkdir, mkdtemp, open, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { cacheDirectory, digestOf, makeOnce, stampOf } from '../../../../infra/local/models/package-cache.ts'

let root: string
beforeAll(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), 'octet-cache-'))
})
afterAll(() => rm(root, { recursive: true }))

/** Writes a package with one file of this content. */
const createMaker = (text: string) =>
  vi.fn(async (out: string) => {
    await mkdir(out)
    await writeFile(path.join(out, 'file'), text)
  })

test('the result of one of two concurrent writers is kept, and later calls reuse it', async () => {
  const directory = path.join(root, 'shared')
  const [one, other, later] = [createMaker('one'), createMaker('other'), createMaker('later')]
  await Promise.all([makeOnce(directory, one), makeOnce(directory, other)])
  await makeOnce(directory, later)
  expect(['one', 'other']).toContain(await readFile(path.join(directory, 'file'), 'utf8'))
  expect([one, other, later].map(({ mock }) => mock.calls.length)).toEqual([1, 1, 0])
  expect(await readdir(root)).toEqual(['shared'])
})

test('a failure leaves nothing behind and can be repeated', async () => {
  const directory = path.join(root, 'failing')
  const failing = createMaker('').mockRejectedValueOnce(new Error('the disk is full'))
  await expect(makeOnce(directory, failing)).rejects.toThrow('the disk is full')
  expect(await readdir(root)).not.toContain('failing')
  await makeOnce(directory, failing)
  expect((await readdir(root)).sort()).toEqual(['failing', 'shared'])
})

test('the state includes files outside the repository', async () => {
  const write = (text: string) => writeFile(path.join(root, 'weights.json'), text)
  await write('1')
  const first = await digestOf([path.join(root, '*.json')])
  await write('2')
  expect(await digestOf([path.join(root, '*.json')])).not.toBe(first)
})

test('a file of more than 4 GiB has a digest, which depends on its last byte', async () => {
  const file = path.join(root, 'large.safetensors')
  const bytes = 2 ** 32 + 1
  await using handle = await open(file, 'w')
  await handle.truncate(bytes)
  const before = await digestOf([file])
  await handle.write(Buffer.from([1]), 0, 1, bytes - 1)
  expect(await digestOf([file])).not.toBe(before)
})

test('the temporary path of a process killed days ago is removed, and that of a running one is not', async () => {
  const [stale, fresh] = [path.join(root, '.killed-1'), path.join(root, '.killed-2')]
  for (const each of [stale, fresh]) await mkdir(each)
  const before = new Date(Date.now() - 2 * 86_400_000)
  await utimes(stale, before, before)
  await makeOnce(path.join(root, 'killed'), createMaker(''))
  expect((await readdir(root)).filter((name) => name.includes('killed')).sort()).toEqual(['.killed-2', 'killed'])
})

test('a stamp changes with the content of a file, without reading it', async () => {
  const file = path.join(root, 'stamped.safetensors')
  await writeFile(file, '1')
  const first = await stampOf([file])
  expect(await stampOf([file])).toBe(first)
  await writeFile(file, '22')
  expect(await stampOf([file])).not.toBe(first)
})

test('directories of other digests are removed unless they are in use', async () => {
  const kind = `test-${process.pid}`
  const [used, unused] = [await cacheDirectory(kind, 'used'), await cacheDirectory(kind, 'unused')]
  onTestFinished(() => rm(path.dirname(used), { recursive: true }))
  const before = new Date(Date.now() - 2 * 3_600_000)
  for (const each of [used, unused]) await utimes(each, before, before)
  await cacheDirectory(kind, 'used')
  await cacheDirectory(kind, 'new')
  expect((await readdir(path.dirname(used))).sort()).toEqual(['new', 'used'])
})
