// koffi, which calls C libraries on stacks of its own, with room for onnxruntime, which goes deep into CUDA's libraries: koffi's default
// for calls on other threads is 128 KiB. The setting must come before the first library.
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
