import { spawnSync } from 'node:child_process'
import { mkdir, readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { nameOf, servedDirectory, serveModels, sourceOf } from '../../../../infra/local/models/served-models.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()

test('a name that is neither a file nor a repository is refused', async () => {
  await expect(sourceOf('no-such-file')).rejects.toThrow('no-such-file: no such file or directory, and not the name')
  expect(await sourceOf('stabilityai/stable-diffusion-3.5-large', 'full')).toMatchObject({ kind: 'hub', route: 'full' })
})

test.each([
  ['stabilityai/stable-diffusion-3.5-large-turbo', 'large-turbo'],
  ['/models/My Model_v2.safetensors', 'my-model-v2'],
  ['/models/---', 'model'],
])('%s is served as %s', (given, name) => {
  expect(nameOf(given)).toBe(name)
})

test('packages in the state and the directories of other servers remain', async () => {
  const state = scratch.directory
  const ended = spawnSync('true').pid
  const kept = ['packages/own', `served-${process.ppid}/loras`]
  for (const name of [...kept, `served-${ended}/loras`]) await mkdir(path.join(state, name), { recursive: true })
  const given = await compileTiny({ tier: 'fp32' })
  const directory = await servedDirectory(state)
  const { preload } = await serveModels([{ kind: 'package', given }], directory, { tier: 'fp32', target: 'cpu' })
  expect(preload).toEqual(['custom:fp32'])
  expect(await readdir(directory)).toEqual(['custom-fp32'])
  for (const name of kept) expect((await stat(path.join(state, name))).isDirectory()).toBe(true)
  expect((await readdir(state)).toSorted()).toEqual(
    ['packages', `served-${process.ppid}`, path.basename(directory)].toSorted(),
  )
})
