// Are the operators of kernels/ there, and can the GPU run them?
import fs from 'node:fs'
import path from 'node:path'
import { loadLibrary } from './ffi.ts'

const LIBRARY = path.join(import.meta.dirname, '../kernels/dist/liboctet-kernels.so')

/** The library that sessions load, or why there is none, as the end of a sentence. */
export type Kernels = { library: string } | { missing: string }

/** Looks for the library that `gpu-fn/kernels/build` makes, and asks it whether the first GPU will do. */
export function findKernels(library: string = LIBRARY): Kernels {
  if (!fs.existsSync(library)) return { missing: `${library} is not there; gpu-fn/kernels/build makes it` }
  try {
    const unsupported = loadLibrary(library).func('octet_unsupported', 'str', [])() as string | null
    return unsupported === null ? { library } : { missing: unsupported }
  } catch (error) {
    // Without CUDA's libraries it cannot be loaded.
    return { missing: `${library} cannot be loaded (${(error as Error).message})` }
  }
}
