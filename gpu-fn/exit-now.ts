// Ends the process while the engine computes.

/**
 * Ends the process with this code and without any cleanup. `process.exit` would destroy onnxruntime's state while a thread still uses it,
 * and crash. Where C's `_exit` cannot be called, SIGKILL ends the process.
 */
export async function exitNow(code: number): Promise<never> {
  try {
    const { loadLibrary } = await import('./ffi.ts')
    loadLibrary(null).func('void _exit(int code)')(code)
  } catch {
    // The signal below has the same effect, but for the exit code.
  }
  process.kill(process.pid, 'SIGKILL')
  return new Promise<never>(() => {})
}
