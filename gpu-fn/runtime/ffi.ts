// koffi with larger stacks: onnxruntime and CUDA's libraries need more than its default of 128 KiB for calls on other threads. The setting
// must precede the first library.
import koffi from 'koffi'

const STACK_BYTES = 8 << 20

koffi.config({
  ...koffi.config(),
  ...{ sync_stack_size: STACK_BYTES, async_stack_size: STACK_BYTES, resident_async_pools: 1 },
})

type Library = ReturnType<typeof koffi.load>

const libraries = new Map<string | null, Library>()

/**
 * Loads a library (null: the program itself) once and keeps it for the thread's lifetime: koffi unloads unreferenced libraries, and
 * unloading one with kernels shuts CUDA down. Throws an Error.
 */
export function loadLibrary(file: string | null, options: Parameters<typeof koffi.load>[1] = {}): Library {
  const library = libraries.get(file) ?? koffi.load(file, options)
  libraries.set(file, library)
  return library
}

export { koffi }
