import { cp, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { beforeEach, expect, test } from 'vitest'
import type { Package } from '../../../gpu-fn/manifest.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'
import { createNoise, writeFakePackage } from '../../../infra/checkpoints/fake-package.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
const FILES = 5

let pkg: Package
const warnings: string[] = []
beforeEach(async () => {
  const directory = path.join(scratch.directory, 'package')
  await writeFakePackage(directory, {
    'transformer.weights': createNoise(300_000),
    'tokenizer/vocab.json': createNoise(100),
  })
  pkg = await openPackage(directory)
  warnings.length = 0
})

/** Creates a verifier with empty memory, as in a new process. `verify` returns the number of hashed files. */
function newProcess(directory = path.join(scratch.directory, 'cache')) {
  const log = { warn: (_: unknown, message: string) => void warnings.push(message) }
  const verifier = new Verifier({ directory, log: log as never })
  const verify = async (of = pkg) => {
    let hashed = 0
    await verifier.verify(of, () => {
      hashed += 1
    })
    return hashed
  }
  return { verify, trust: verifier.trust.bind(verifier) }
}

const fileOf = (name: string) => path.join(pkg.directory, name)

async function flip(name: string): Promise<void> {
  const bytes = await readFile(fileOf(name))
  bytes[bytes.length - 1]! ^= 1
  await writeFile(fileOf(name), bytes)
}

test('every file is hashed once per machine, even across processes', async () => {
  const first = newProcess()
  expect([await first.verify(), await first.verify(), await newProcess().verify()]).toEqual([FILES, 0, 0])
  expect((await stat(path.join(scratch.directory, 'cache', 'verified.json'))).mode & 0o777).toBe(0o600)
})

test.each(['transformer.weights', 'tokenizer/vocab.json', 'vae_decoder.onnx'])(
  'a flipped bit in %s is detected, even after the file was verified',
  async (name) => {
    const corrupt = {
      name: 'PackageError',
      sha256: pkg.manifest.files[name]!.sha256,
      message: expect.stringContaining(`${name} does not have the SHA-256`),
    }
    const { verify } = newProcess()
    await verify()
    await flip(name)
    await expect(verify()).rejects.toMatchObject(corrupt)
    await expect(newProcess().verify()).rejects.toMatchObject(corrupt)
    await flip(name)
    expect(await newProcess().verify()).toBe(1)
  },
)

test('a corrupt file is hashed once per process, not again for each job', async () => {
  const file = fileOf('transformer.weights')
  const flipAt = async (time: Date) => {
    await flip('transformer.weights')
    await utimes(file, time, time)
  }
  const time = new Date(1_700_000_000_000)
  await flipAt(time)
  const { verify } = newProcess()
  await expect(verify()).rejects.toThrow('transformer.weights')
  // Correct content with an unchanged modification time: still rejected, because the file is not hashed again.
  await flipAt(time)
  await expect(verify()).rejects.toThrow('transformer.weights')
  await utimes(file, new Date(), new Date())
  expect(await verify()).toBeGreaterThan(0)
})

test('a copy of a package is hashed separately, except for its trusted files', async () => {
  const directory = path.join(scratch.directory, 'copy')
  await cp(pkg.directory, directory, { recursive: true })
  const copy = await openPackage(directory)
  const { verify, trust } = newProcess()
  await verify()
  await trust([
    {
      file: path.join(copy.directory, 'transformer.weights'),
      sha256: copy.manifest.files['transformer.weights']!.sha256,
    },
  ])
  expect([await verify(copy), await verify(), await newProcess().verify(copy)]).toEqual([FILES - 1, 0, 0])
})

test('files that are recorded concurrently are all recorded', async () => {
  const { trust } = newProcess()
  const files = Object.entries(pkg.manifest.files).map(([name, { sha256 }]) => ({ file: fileOf(name), sha256 }))
  await Promise.all(files.map((file) => trust([file])))
  expect(warnings).toEqual([])
  expect(await newProcess().verify()).toBe(0)
})

test.each([
  ['no JSON', '{'],
  ['another shape', '["a"]'],
  ['a digest that is a path', '{"1 2 3": "../../etc/passwd"}'],
  ['megabytes', ' '.repeat(2 << 20)],
])('an invalid record is ignored: %s', async (_, text) => {
  const at = path.join(scratch.directory, 'cache')
  await newProcess(at).verify()
  await writeFile(path.join(at, 'verified.json'), text)
  expect([await newProcess(at).verify(), await newProcess(at).verify()]).toEqual([FILES, 0])
})

test('verification works without a writable cache directory, and logs a warning', async () => {
  const at = path.join(scratch.directory, 'file')
  await writeFile(at, '')
  const { verify } = newProcess(path.join(at, 'cache'))
  expect([await verify(), await verify()]).toEqual([FILES, 0])
  expect(warnings).toEqual(['verified packages cannot be recorded, and will be hashed at each start'])
})

test('a missing file is an error', async () => {
  const { verify } = newProcess()
  await rm(fileOf('transformer.weights'))
  await expect(verify()).rejects.toThrow('ENOENT')
})
