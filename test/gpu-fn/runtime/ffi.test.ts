import { readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, test } from 'vitest'
import { koffi, loadLibrary } from '../../../gpu-fn/runtime/ffi.ts'

const LIBRARIES = ['libutil.so.1', 'libanl.so.1']
const isLoaded = (library: string) => readFileSync('/proc/self/maps', 'utf8').includes(library)

async function collectGarbage(): Promise<void> {
  setFlagsFromString('--expose_gc')
  const collect = runInNewContext('gc') as () => void
  for (let i = 0; i < 5; i++) {
    collect()
    await setTimeout(10)
  }
}

// Small libraries of glibc's that nothing else loads.
test.runIf(process.platform === 'linux')('a library stays loaded without references', async () => {
  const [kept, dropped] = LIBRARIES as [string, string]
  loadLibrary(kept)
  koffi.load(dropped)
  expect(LIBRARIES.map(isLoaded)).toEqual([true, true])
  await collectGarbage()
  expect(LIBRARIES.map(isLoaded)).toEqual([true, false])
})

test.runIf(process.platform === 'linux')('repeated loads of a library return the same instance', () => {
  const [library] = LIBRARIES as [string, string]
  expect(loadLibrary(library)).toBe(loadLibrary(library))
  expect(loadLibrary(null)).toBe(loadLibrary(null))
})
