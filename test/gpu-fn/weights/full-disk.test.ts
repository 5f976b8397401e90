// A package is downloaded to a file system that is too small for it: its own tmpfs in a mount namespace.
import { execFile } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, onTestFinished, test } from 'vitest'
import { noise, writeFakePackage } from '../../../infra/checkpoints/fake-package.ts'
import { startBucket } from '../../../infra/local/servers/bucket.ts'
import { uploadPackage, uploadTarget } from '../../../infra/weights/upload.ts'
import { useScratch } from '../../support/scratch.ts'
import type { Task } from '../../support/weights/download-program.ts'

const scratch = useScratch()
const PROGRAM = path.join(import.meta.dirname, '../../support/weights/download-program.ts')
const MEGABYTE = 1_000_000

test('a download to a full disk names the remedy, leaves nothing behind, and succeeds once there is room', async () => {
  const bucket = await startBucket(path.join(scratch.directory, 'bucket'))
  onTestFinished(() => bucket.stop())
  const at = path.join(scratch.directory, 'package')
  const { manifest, digest } = await writeFakePackage(at, { 'transformer.bin': noise(3 * MEGABYTE) }, { tier: 'fp8' })
  await uploadPackage(uploadTarget(bucket.address), at)
  const name = { model: manifest.model, tier: manifest.tier, target: manifest.target }
  const task: Task = { directory: 'disk/cache', url: bucket.address.url, budgetBytes: 1e9, name, stallMs: 60_000 }
  const program = `'${process.execPath}' '${PROGRAM}' '${JSON.stringify(task)}'`
  const commands = [
    'mkdir disk && mount -t tmpfs -o size=2m tmpfs disk',
    `${program} || ls -A disk/cache/blobs disk/cache/packages`,
    'mount -o remount,size=20m disk',
    program,
  ]
  const { stdout, stderr } = await promisify(execFile)('unshare', ['-rm', 'sh', '-c', commands.join(' ; ')], {
    cwd: scratch.directory,
  })
  expect(stderr).toMatch(
    /CacheFull: disk\/cache: the disk is full; the package takes 0\.003 GB\. Free space on it, or set OCTET_CACHE/,
  )
  const lines = stdout.trim().split('\n')
  // Complete files stay for the next attempt; there is no package of them, and no incomplete file.
  expect(lines[0]).toBe('disk/cache/blobs:')
  expect(lines.filter((line) => !/^[0-9a-f]{64}$/.test(line))).toHaveLength(1)
  expect(lines.at(-1)).toBe(digest)
})
