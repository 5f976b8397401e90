import { spawnSync } from 'node:child_process'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { place } from '../../../gpu-fn/compile/place.ts'
import { writeFakePackage } from '../../../infra/checkpoints/fake-package.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
const NAME = { model: 'large', tier: 'fp8', target: 'cpu' } as const

const at = (name: string) => path.join(scratch.directory, name)
const write = async (name: string, text: string) => {
  await mkdir(at(name))
  await writeFile(path.join(at(name), 'file'), text)
}
const placeNew = (name: string) => place(at(name), 1, (directory) => writeFile(path.join(directory, 'file'), 'new'))
/** The ID of a process that has ended. */
const deadProcess = () => spawnSync('true').pid

test('keeps the old package of another name, even if that name begins with this one', async () => {
  const other = `.sd3.5-large.old-${deadProcess()}`
  await write(other, 'the only copy')
  await placeNew('sd3')
  expect(await readFile(path.join(at(other), 'file'), 'utf8')).toBe('the only copy')
})

test('restores the package that an earlier process with the same ID had moved', async () => {
  await write(`.sd3.old-${process.pid}`, 'old')
  const failing = place(at('sd3'), 1, () => Promise.reject(new Error('stopped')))
  await expect(failing).rejects.toThrow('stopped')
  expect(await readFile(path.join(at('sd3'), 'file'), 'utf8')).toBe('old')
  expect(await readdir(scratch.directory)).toEqual(['sd3'])
})

test('replaces a package although an earlier process with the same ID was killed during a removal', async () => {
  await writeFakePackage(at('sd3'), { 'vae.bin': Buffer.alloc(4) }, NAME)
  await write(`.sd3.old-${process.pid}`, 'half removed')
  await placeNew('sd3')
  expect(await readdir(at('sd3'))).toEqual(['file'])
  expect(await readdir(scratch.directory)).toEqual(['sd3'])
})
