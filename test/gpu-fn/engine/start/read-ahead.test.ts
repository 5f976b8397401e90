import { cp, mkdtemp, rm, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { readAhead } from '../../../../gpu-fn/engine/start/read-ahead.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'

async function compileOwnPackage() {
  const directory = await mkdtemp(path.join(tmpdir(), 'octet-ahead-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  await cp(await compileTiny({}), directory, { recursive: true })
  const pkg = await openPackage(directory)
  const weights = Object.entries(pkg.manifest.files).filter(([name]) => name.endsWith('.weights'))
  return { directory, pkg, total: weights.reduce((sum, [, { bytes }]) => sum + bytes, 0) }
}

test('reads only the weights of complete files', async () => {
  const { pkg, total } = await compileOwnPackage()
  const { bytes } = await readAhead(pkg, new AbortController().signal)
  expect(bytes).toBeGreaterThanOrEqual(0)
  expect(bytes).toBeLessThanOrEqual(total)
})

test('stops when the signal aborts', async () => {
  const { pkg } = await compileOwnPackage()
  expect(await readAhead(pkg, AbortSignal.abort())).toEqual({ bytes: 0 })
})

test('ignores absent and truncated files, whose opening reports the error', async () => {
  const { directory, pkg, total } = await compileOwnPackage()
  await rm(path.join(directory, 'clip_l.weights'))
  await truncate(path.join(directory, 'transformer.weights'), 10)
  const { bytes } = await readAhead(pkg, new AbortController().signal)
  expect(bytes).toBeLessThan(total)
})
