// Ends the process while the engine is computing.

/**
 * Ends the process with this exit code and without cleanup. `process.exit` would destroy onnxruntime's state while a thread still uses
 * it, and crash. If C's `_exit` is unavailable, falls back to SIGKILL.
 */
export async function exitNow(code: number): Promise<never> {
  try {
    const { loadLibrary } = await import('../runtime/ffi.ts')
    loadLibrary(null).func('void _exit(int code)')(code)
  } catch {
    // SIGKILL below has the same effect except for the exit code.
  }
  process.kill(process.pid, 'SIGKILL')
  return new Promise<never>(() => {})
}
