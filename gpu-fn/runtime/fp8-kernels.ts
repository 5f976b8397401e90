// The library of kernels/, if this machine supports it.
import fs from 'node:fs'
import path from 'node:path'
import { loadNative } from './native.ts'

const LIBRARY = path.join(import.meta.dirname, '../kernels/dist/liboctet-kernels.so')

/** The library that sessions load; without one, `reason` completes a sentence. */
export type Kernels =
  | { readonly library: string; readonly reason: null }
  | { readonly library: null; readonly reason: string }

const createUnavailableKernels = (reason: string): Kernels => ({ library: null, reason })

/** Looks for the library that `gpu-fn/kernels/build` creates and checks that it supports the first GPU. */
export function findKernels(library: string = LIBRARY): Kernels {
  if (!fs.existsSync(library)) return createUnavailableKernels(`${library} is missing; gpu-fn/kernels/build creates it`)
  try {
    const unsupported = loadNative().findUnsupported(library)
    return unsupported === null ? { library, reason: null } : createUnavailableKernels(unsupported)
  } catch (error) {
    // Without CUDA's libraries it cannot be loaded.
    return createUnavailableKernels(`${library} cannot be loaded (${(error as Error).message})`)
  }
}
