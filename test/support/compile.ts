// Packages of tiny checkpoints, compiled once for one state of the sources and shared by all test files.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { glob, mkdir, mkdtemp, rename, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { compile } from '../../gpu-fn/compile/compile.ts'
import type { Manifest } from '../../gpu-fn/compile/manifest.ts'
import { compilerDigest } from '../../infra/built-in-model.ts'
import { type TinyOptions, writeTinyCheckpoint } from '../../infra/tiny-checkpoint.ts'

const PREFIX = 'octet-test-'

export type TinyPackage = TinyOptions & { tier?: Manifest['tier'] }

/** Compiles a tiny checkpoint for the CPU and returns the package's directory. */
export async function compileTiny({ tier = 'fp32', ...tiny }: TinyPackage): Promise<string> {
  const name = createHash('sha256')
    .update(JSON.stringify([tier, Object.entries(tiny).sort()]))
    .digest('hex')
    .slice(0, 16)
  const shared = path.join(tmpdir(), PREFIX + (await compilerDigest()))
  const directory = path.join(shared, name)
  if (existsSync(directory)) return directory
  if (await mkdir(shared, { recursive: true })) await removeStale()
  const work = await mkdtemp(path.join(shared, 'compile-'))
  const checkpoint = await writeTinyCheckpoint(path.join(work, 'checkpoint'), tiny)
  const out = path.join(work, 'package')
  await compile({ checkpoint: [checkpoint], out, tier, target: 'cpu', variant: 'custom' })
  await rename(out, directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error // another test file was first
  })
  await rm(work, { recursive: true })
  return directory
}

/** Packages of earlier sources, unless a test run of this hour may still use them. */
async function removeStale(): Promise<void> {
  for await (const name of glob(`${PREFIX}*`, { cwd: tmpdir() })) {
    const directory = path.join(tmpdir(), name)
    const { mtimeMs } = await stat(directory)
    if (Date.now() - mtimeMs > 3_600_000) await rm(directory, { recursive: true, force: true })
  }
}
