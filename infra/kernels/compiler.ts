// The CUDA compiler of `npm run kernels:setup`, or another one.
import { existsSync } from 'node:fs'
import { glob } from 'node:fs/promises'
import path from 'node:path'

const ROOT = path.join(import.meta.dirname, '../..')
const SETUP = '.octet/cuda/lib/python3*/site-packages/nvidia/cu13'

/** `isPinned`: the version of infra/docker/cuda-requirements.txt, whose figures can be compared. */
export type Compiler = { nvcc: string; include: string; isPinned: boolean }

/** Finds the compiler in `CUDA_HOME`, or else the one of `npm run kernels:setup`. Throws if there is none. */
export async function findCompiler(): Promise<Compiler> {
  const given = process.env.CUDA_HOME
  const home = given ?? (await findInstalledHome())
  const nvcc = path.join(home, 'bin/nvcc')
  if (!existsSync(nvcc)) throw new Error(`CUDA_HOME is ${home}, which has no bin/nvcc: set it to a toolkit of CUDA 13`)
  return { nvcc, include: path.join(home, 'include'), isPinned: given === undefined }
}

async function findInstalledHome(): Promise<string> {
  for await (const home of glob(SETUP, { cwd: ROOT })) return path.join(ROOT, home)
  throw new Error('nvcc is missing: run `npm run kernels:setup`, or set CUDA_HOME to a toolkit of CUDA 13')
}
