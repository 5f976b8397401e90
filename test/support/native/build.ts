// Builds the addon before the tests if its sources are newer, and this machine has g++.
import { execFileSync } from 'node:child_process'
import { globSync, rmSync, statSync } from 'node:fs'
import path from 'node:path'
import { NATIVE_LIBRARY } from '../../../gpu-fn/runtime/native.ts'
import { hasCompiler } from './addon.ts'

const ROOT = path.join(import.meta.dirname, '../../..')
const BUILD = path.join(ROOT, 'gpu-fn/kernels/build')

const readBuildTime = () => statSync(NATIVE_LIBRARY, { throwIfNoEntry: false })?.mtimeMs ?? 0

/** Called once by Vitest. Throws the compiler's messages. */
export function setup(): void {
  const sources = [BUILD, ...globSync('gpu-fn/native/**/*.{cc,h}', { cwd: ROOT }).map((file) => path.join(ROOT, file))]
  if (sources.every((source) => statSync(source).mtimeMs < readBuildTime())) return
  if (hasCompiler()) {
    execFileSync(BUILD, ['addon'], { stdio: ['ignore', 'ignore', 'inherit'] })
    return
  }
  // Prevents tests with an outdated addon.
  rmSync(NATIVE_LIBRARY, { force: true })
  console.warn('g++ is missing: the tests of the addon (gpu-fn/native) are skipped.')
}
