// The build script, with stubs of both compilers.
import { execFile } from 'node:child_process'
import { chmod, copyFile, mkdir, readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
const BUILD = path.join(import.meta.dirname, '../../../gpu-fn/kernels/build')

/** A compiler that writes its output; as a linker of `stopped`, it writes half and is killed. */
const stub = (stopped: string) => `#!/usr/bin/env bash
while [ $# -gt 0 ]; do case "$1" in -o) out=$2;; -shared) links=1;; esac; shift; done
echo half > "$out"
case "\${links:-}$out" in 1*${stopped}*) kill -9 $$;; esac
echo whole >> "$out"
`

/** Runs a copy of the script on a tree with one source of each kind. Returns the names in `dist`. */
async function build(stopped: string): Promise<string[]> {
  const at = (name: string) => path.join(scratch.directory, name)
  for (const directory of ['kernels/one', 'native/one', 'bin', 'cuda']) await mkdir(at(directory), { recursive: true })
  await copyFile(BUILD, at('kernels/build'))
  for (const file of ['kernels/a.cu', 'kernels/one/b.cu', 'native/a.cc', 'native/one/b.cc'])
    await writeFile(at(file), '')
  for (const library of ['libcublasLt.so', 'libcudart.so']) await writeFile(at(`cuda/${library}`), '')
  for (const compiler of ['g++', 'nvcc']) {
    await writeFile(at(`bin/${compiler}`), stub(stopped))
    await chmod(at(`bin/${compiler}`), 0o755)
  }
  const env = { PATH: `${at('bin')}:${process.env.PATH}`, CUDA_LIBRARIES: at('cuda'), CUDA_HOME: at('cuda') }
  await promisify(execFile)(at('kernels/build'), { env }).catch(() => {})
  return readdir(at('kernels/dist')).catch(() => [])
}

test('writes the addon and the kernels', async () => {
  expect(await build('none')).toEqual(['liboctet-kernels.so', 'octet.node'])
})

test.each(['octet.node', 'liboctet-kernels.so'])('an interrupted build leaves no incomplete %s', async (name) => {
  expect(await build(name)).not.toContain(name)
})
