// Whether the tests of the addon (gpu-fn/native) can run. The addon needs a compiler; the CPU path of the product does not.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { NATIVE_LIBRARY } from '../../../gpu-fn/runtime/native.ts'

/** The addon runs on Linux. */
export const hasCompiler = (): boolean =>
  process.platform === 'linux' && spawnSync('g++', ['--version'], { stdio: 'ignore' }).status === 0

/** test/support/native/build.ts builds it before all tests, if this machine has g++. */
export const hasAddon = (): boolean => existsSync(NATIVE_LIBRARY)

/** The binding of sessions that simulate GPU sessions. */
export const BINDING = hasAddon() ? 'native' : 'node'
