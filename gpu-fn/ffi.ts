// koffi, which calls C libraries, with room for what onnxruntime does on its threads: it goes deep into CUDA's libraries, and koffi's own
// stack for calls on other threads is 128 KiB. The setting must come before the first library.
import koffi from 'koffi'

koffi.config({ ...koffi.config(), async_stack_size: 8 << 20, resident_async_pools: 1 })

export { koffi }
