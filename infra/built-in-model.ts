// The model that needs no download: compiled once for one state of the compiler, and kept in .octet/ beside package.json.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import fs from 'node:fs/promises'
import path from 'node:path'
import { compile } from '../gpu-fn/compile/compile.ts'
import { writeTinyCheckpoint } from './tiny-checkpoint.ts'

const ROOT = path.join(import.meta.dirname, '..')
/** All that the bytes of a tiny checkpoint's package depend on. */
const SOURCES = [
  'package.json',
  'gpu-fn/{compile,models}/**/*.*',
  'gpu-fn/nano/tiny/*/*',
  'infra/tiny-checkpoint.ts',
  'infra/tiny/*',
  'infra/{write-safetensors,safetensors-header}.ts',
]

export const BUILT_IN = { model: 'tiny', tier: 'fp8' } as const

/** The directory of packages that holds the built-in model, compiled now unless it was before; `seconds` is what that took. */
export async function builtInPackages(): Promise<{ directory: string; seconds: number }> {
  const start = performance.now()
  const directory = path.join(ROOT, '.octet', 'packages', await compilerDigest())
  const out = path.join(directory, `${BUILT_IN.model}-${BUILT_IN.tier}`)
  if (!existsSync(path.join(out, 'manifest.json'))) {
    const checkpoint = await fs.mkdtemp(path.join(await ensured(path.join(ROOT, '.octet')), 'checkpoint-'))
    try {
      await writeTinyCheckpoint(checkpoint)
      await compile({ checkpoint: [checkpoint], out, tier: BUILT_IN.tier, target: 'cpu', name: BUILT_IN.model })
    } finally {
      await fs.rm(checkpoint, { recursive: true })
    }
  }
  return { directory, seconds: (performance.now() - start) / 1000 }
}

async function ensured(directory: string): Promise<string> {
  await fs.mkdir(directory, { recursive: true })
  return directory
}

/** Names one state of the compiler and of the tiny checkpoints, in 16 hexadecimal digits. */
export async function compilerDigest(): Promise<string> {
  const files: string[] = []
  for await (const file of fs.glob(SOURCES, { cwd: ROOT })) files.push(file)
  const hash = createHash('sha256')
  for (const file of files.sort()) hash.update(file).update(await fs.readFile(path.join(ROOT, file)))
  return hash.digest('hex').slice(0, 16)
}
