import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { MANIFEST_FORMAT, type Manifest } from '../../../gpu-fn/manifest.ts'
import { describeText } from '../../../gpu-fn/models/sd35/text-encoders.ts'
import { findPackages, openPackage } from '../../../gpu-fn/weights/packages.ts'

const FILES = ['conditioning.onnx', 'transformer.onnx', 'vae_decoder.onnx', 'clip_l.onnx', 'tokenizer/vocab.json']
const sha256 = (data: string | Uint8Array) => createHash('sha256').update(data).digest('hex')
const createRefusal = (message: RegExp) =>
  expect.objectContaining({ name: 'PackageError', message: expect.stringMatching(message) })

let scratch: string
beforeEach(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), 'octet-packages-'))
})
afterEach(() => rm(scratch, { recursive: true }))

function createValidManifest(): Manifest {
  const network = (file: string) => ({ file, inputs: [], outputs: [] })
  return {
    format: MANIFEST_FORMAT,
    model: 'large-turbo',
    variant: 'large-turbo',
    tier: 'fp8',
    target: 'cpu',
    tool: 'octet 0.1.0',
    license: 'see NOTICE',
    source: sha256('source'),
    defaults: { steps: 4, guidance_scale: 1, width: 64, height: 64 },
    scheduler: { name: 'FlowMatchEulerDiscreteScheduler', shift: 3, num_train_timesteps: 1000 },
    latent: { channels: 16, downsample: 8, patch_size: 2 },
    position: { max: 192, width: 64 },
    text: describeText(
      { clip_l: { width: 32, pooledWidth: 32, tokens: 77 }, clip_g: null, t5: null },
      { contextWidth: 64, pooledWidth: 64 },
    ),
    transformer_batch: null,
    networks: {
      conditioning: network('conditioning.onnx'),
      transformer: network('transformer.onnx'),
      vae_decoder: network('vae_decoder.onnx'),
      clip_l: network('clip_l.onnx'),
    },
    weights: {},
    files: Object.fromEntries(FILES.map((name) => [name, { bytes: name.length, sha256: sha256(name) }])),
  }
}

/** Writes a package whose files contain their own names. */
async function write(name: string, manifest: unknown = createValidManifest()): Promise<string> {
  const directory = path.join(scratch, name)
  await mkdir(path.join(directory, 'tokenizer'), { recursive: true })
  for (const file of FILES) await writeFile(path.join(directory, file), file)
  await writeFile(
    path.join(directory, 'manifest.json'),
    typeof manifest === 'string' ? manifest : JSON.stringify(manifest),
  )
  return directory
}

test('opens a valid package and identifies it by the digest of its manifest', async () => {
  const pkg = await openPackage(await write('a'), { verify: true })
  expect(pkg.manifest).toEqual(createValidManifest())
  expect(pkg.digest).toBe(sha256(JSON.stringify(createValidManifest())))
})

describe('refuses', () => {
  type Change = (manifest: Manifest) => void
  const rename =
    (name: string): Change =>
    (manifest) => {
      manifest.files[name] = { bytes: 1, sha256: sha256('x') }
    }
  const layout =
    (offsets: number[], file = 'transformer.onnx'): Change =>
    (manifest) => {
      manifest.weights[file] = offsets.map((offset) => ({
        name: 'w',
        dtype: 'float32',
        shape: [2],
        offset: 4 * offset,
      }))
    }
  const changes: [string, RegExp, Change][] = [
    ['a path outside the package', /"\.\.\/other\/secret" is not a path inside/, rename('../other/secret')],
    [
      'a path with an intermediate component outside the package',
      /is not a path inside/,
      rename('tokenizer/../../secret'),
    ],
    ['an absolute path', /"\/etc\/passwd" is not a path inside/, rename('/etc/passwd')],
    ['a path with a backslash', /is not a path inside/, rename('..\\secret')],
    ['a path with NUL', /is not a path inside/, rename('a\0b')],
    ['an empty part of a path', /is not a path inside/, rename('tokenizer//vocab.json')],
    ['a file that is missing', /weights\.bin is missing/, rename('weights.bin')],
    ['a directory in place of a file', /tokenizer is not a file/, rename('tokenizer')],
    [
      'a network in a file that is not listed',
      /uses toString, which "files" does not list/,
      (m) => (m.networks.transformer!.file = 'toString'),
    ],
    ['no transformer', /has no network transformer/, (m) => delete m.networks.transformer],
    [
      'an encoder without its graph',
      /has the text encoder clip_l without its network t5/,
      (m) => m.text.encoders[0]!.graphs.push('t5'),
    ],
    ['a weight beyond the end of its file', /w extends beyond the end of transformer\.onnx/, layout([3])],
    ['a weight over another', /w overlaps the tensor before it in transformer\.onnx/, layout([0, 1])],
    ['a layout of an unlisted file', /w extends beyond the end of none/, layout([0], 'none')],
    [
      'a position input without a table',
      /no position\.file for the input position of transformer/,
      (m) => m.networks.transformer!.inputs.push({ name: 'position', dtype: 'float32', shape: ['S', 64] }),
    ],
    [
      'a digest that is a path',
      /manifest\.json is not valid: .*SHA-256 in lower-case hex/s,
      (m) => (m.files['transformer.onnx']!.sha256 = '../../etc/passwd'),
    ],
    ['a source that is no digest', /manifest\.json is not valid: .*SHA-256/s, (m) => (m.source = 'A'.repeat(64))],
    ['a negative size', /manifest\.json is not valid: /, (m) => (m.files['transformer.onnx']!.bytes = -1)],
    [
      'the format of another version',
      /manifest\.json is not valid: .*the format is 2 and this version reads 5; compile .* again with `npm run compile`/,
      (m) => Object.assign(m, { format: 2 }),
    ],
    ['an unknown field', /manifest\.json is not valid: .*surprise/s, (m) => Object.assign(m, { surprise: true })],
  ]

  test.each(changes)('%s', async (_, message, change) => {
    const manifest = createValidManifest()
    change(manifest)
    await expect(openPackage(await write('a', manifest))).rejects.toThrow(createRefusal(message))
  })

  test('a link to a file outside the package', async () => {
    await writeFile(path.join(scratch, 'secret'), 'vae_decoder.onnx')
    const directory = await write('a')
    await rm(path.join(directory, 'vae_decoder.onnx'))
    await symlink('../secret', path.join(directory, 'vae_decoder.onnx'))
    await expect(openPackage(directory)).rejects.toThrow(createRefusal(/vae_decoder\.onnx is a link that leads out/))
  })

  test('a truncated file', async () => {
    const directory = await write('a')
    await truncate(path.join(directory, 'transformer.onnx'), 3)
    await expect(openPackage(directory)).rejects.toThrow(
      createRefusal(/transformer\.onnx has 3 bytes; manifest\.json states 16/),
    )
  })

  test('changed bytes of the same length, only with `verify`', async () => {
    const directory = await write('a')
    await writeFile(path.join(directory, 'transformer.onnx'), 'Transformer.onnx')
    await expect(openPackage(directory)).resolves.toMatchObject({ manifest: { model: 'large-turbo' } })
    await expect(openPackage(directory, { verify: true })).rejects.toThrow(
      createRefusal(/transformer\.onnx does not have the SHA-256/),
    )
  })

  test('a directory without a manifest', async () => {
    await expect(openPackage(path.join(scratch, 'none'))).rejects.toThrow(
      createRefusal(/manifest\.json cannot be read/),
    )
  })

  test.each([
    ['nothing', ''],
    ['half a manifest', JSON.stringify(createValidManifest()).slice(0, 400)],
    ['another kind of JSON', '[1, 2, 3]'],
    ['null', 'null'],
    ['deep nesting', '['.repeat(100_000)],
    ['four megabytes of space', ' '.repeat((4 << 20) + 1)],
    ['a prototype', '{"__proto__": {"format": 1}, "constructor": 1}'],
  ])('a manifest of %s', async (_, text) => {
    await expect(openPackage(await write('a', text))).rejects.toThrow(createRefusal(/manifest\.json/))
  })

  test('manifests with a changed byte, always with a PackageError', async () => {
    const bytes = Buffer.from(JSON.stringify(createValidManifest()))
    const directory = await write('a')
    const outcomes = { opened: 0, PackageError: 0 }
    for (let i = 0; i < bytes.length; i += 3) {
      const changed = Buffer.from(bytes)
      changed[i] = changed[i]! ^ (1 << (i % 8))
      await writeFile(path.join(directory, 'manifest.json'), changed)
      const outcome = await openPackage(directory, { verify: true }).then(
        () => 'opened',
        (error: Error) => error.name,
      )
      expect(outcomes).toHaveProperty(outcome)
      outcomes[outcome as keyof typeof outcomes] += 1
    }
    // Free text may change; structure, names, sizes and digests of files may not.
    expect(outcomes.PackageError).toBeGreaterThan(outcomes.opened)
  })
})

describe('findPackages', () => {
  test('finds the directories with a manifest, sorted by name', async () => {
    await write('b')
    await write('a')
    await mkdir(path.join(scratch, 'empty'))
    for (const leftover of ['.a.partial-1', '.b.old-1']) await write(leftover, '{}')
    await writeFile(path.join(scratch, 'a-file'), '')
    expect((await findPackages(scratch)).map(({ directory }) => path.basename(directory))).toEqual(['a', 'b'])
  })

  test('reports an invalid package and a missing root', async () => {
    await write('a', '{}')
    await expect(findPackages(scratch)).rejects.toThrow(createRefusal(/a: manifest\.json is not valid/))
    await expect(findPackages(path.join(scratch, 'none'))).rejects.toThrow(createRefusal(/none cannot be listed/))
  })
})
