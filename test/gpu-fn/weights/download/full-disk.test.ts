// Weights on a full disk: a small tmpfs in a mount namespace.
import { execFile } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, onTestFinished, test } from 'vitest'
import { createNoise, writeFakePackage } from '../../../../infra/checkpoints/fake-package.ts'
import { startBucket } from '../../../../infra/local/servers/bucket.ts'
import { createUploadTarget, uploadPackage } from '../../../../infra/weights/upload.ts'
import { startHub } from '../../../support/hub-stub.ts'
import { useScratch } from '../../../support/scratch.ts'
import type { Task } from '../../../support/weights/download-program.ts'

const scratch = useScratch()
const programOf = (name: string, ...options: string[]) =>
  [process.execPath, path.join(import.meta.dirname, `../../../support/weights/${name}-program.ts`), ...options]
    .map((each) => `'${each}'`)
    .join(' ')
const MEGABYTE = 1_000_000

/** Runs shell commands in a mount namespace, in the test's directory. */
const runMounted = (commands: readonly string[]) =>
  promisify(execFile)('unshare', ['-rm', 'sh', '-c', commands.join(' ; ')], { cwd: scratch.directory })
const mountDisk = (megabytes: number) => `mkdir disk && mount -t tmpfs -o size=${megabytes}m tmpfs disk`

/** Serves a package of 3 MB. Returns its digest, and a command for downloading it to disk/cache. */
async function servePackage() {
  const bucket = await startBucket(path.join(scratch.directory, 'bucket'))
  onTestFinished(() => bucket.stop())
  const at = path.join(scratch.directory, 'package')
  const { manifest, digest } = await writeFakePackage(
    at,
    { 'transformer.bin': createNoise(3 * MEGABYTE) },
    { tier: 'fp8' },
  )
  await uploadPackage(createUploadTarget(bucket.address), at)
  const name = { model: manifest.model, tier: manifest.tier, target: manifest.target }
  const task: Task = { directory: 'disk/cache', url: bucket.address.url, budgetBytes: 1e9, name, stallMs: 60_000 }
  return { download: programOf('download', JSON.stringify(task)), digest }
}

const FULL =
  /CacheFull: disk\/cache: the disk is full; the package takes 0\.003 GB\. Free space on it, or set OCTET_CACHE/

test('a download to a full disk fails with a remedy, leaves no files, and succeeds after space is freed', async () => {
  const { download, digest } = await servePackage()
  const { stdout, stderr } = await runMounted([
    mountDisk(2),
    `${download} || (cd disk/cache && ls -A blobs packages links)`,
    'mount -o remount,size=20m disk',
    download,
  ])
  expect(stderr).toMatch(FULL)
  const lines = stdout.trim().split('\n')
  // Complete files stay for the next attempt; there is no package of them, and no incomplete file.
  expect(lines.filter((line) => !/^[0-9a-f]{64}$/.test(line))).toEqual(['blobs:', '', 'links:', '', 'packages:'])
  expect(lines.indexOf('links:')).toBe(lines.indexOf('packages:') - 2)
  expect(lines.at(-1)).toBe(digest)
})

test('a full disk after the download of all files is an error with a remedy, and leaves no incomplete package', async () => {
  const { download, digest } = await servePackage()
  const { stdout, stderr } = await runMounted([
    mountDisk(20),
    download,
    'rm -r disk/cache/packages',
    'cat /dev/zero > disk/filler 2> /dev/null',
    `${download} || ls -A disk/cache/packages`,
    'rm disk/filler',
    download,
  ])
  expect(stderr).toMatch(FULL)
  expect(stdout.trim().split('\n')).toEqual([digest, digest])
})

test('packages on a read-only volume are served in place, even if the cache disk is full', async () => {
  const at = path.join(scratch.directory, 'volume/package')
  const { digest } = await writeFakePackage(at, { 'transformer.bin': createNoise(3 * MEGABYTE) }, { tier: 'fp8' })
  const { stdout } = await runMounted([
    'mount --bind volume volume && mount -o remount,bind,ro volume',
    mountDisk(1),
    'cat /dev/zero > disk/filler 2> /dev/null',
    programOf('mounted', 'volume', 'disk/cache'),
    'find disk/cache -type f',
  ])
  expect(stdout.trim().split('\n')).toEqual([
    'warning: verified packages cannot be recorded, and will be hashed at each start',
    digest,
  ])
})

test('a full disk ends the download of a checkpoint at once, and the next download resumes', async () => {
  const repo = 'stabilityai/stable-diffusion-3.5-test'
  const source = path.join(scratch.directory, 'source')
  await mkdir(path.join(source, 'transformer'), { recursive: true })
  await writeFile(path.join(source, 'model_index.json'), '{}')
  await writeFile(path.join(source, 'transformer/model.safetensors'), createNoise(3 * MEGABYTE))
  const hub = await startHub(source, { repo, token: 'hf_token' })
  onTestFinished(() => hub.close())
  const given = ['disk/checkpoint', hub.url, repo, 'hf_token'] as const
  const { stdout, stderr } = await runMounted([
    mountDisk(4),
    programOf('checkpoint', ...given, `${4 * MEGABYTE}`),
    'rm disk/filler',
    programOf('checkpoint', ...given),
    'find disk/checkpoint -type f | sort',
  ])
  expect(stderr).toMatch(
    /HubError: disk\/checkpoint: the disk is full; free space on it, and repeat the command to resume the download/,
  )
  expect(stdout.trim().split('\n')).toEqual([
    expect.stringMatching(/^[0-9a-f]{64}$/),
    'disk/checkpoint/model_index.json',
    'disk/checkpoint/transformer/model.safetensors',
  ])
})
