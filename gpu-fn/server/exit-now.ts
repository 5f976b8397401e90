// Ends the process while the engine is computing.

/**
 * Ends the process with this exit code and without cleanup. `process.exit` would destroy onnxruntime's state while a thread still uses it,
 * and crash. `execve` therefore replaces the process with a shell that exits. Without `execve` (Windows, Node before 22.15), falls back to
 * SIGKILL.
 */
export async function exitNow(code: number): Promise<never> {
  try {
    process.execve?.('/bin/sh', ['sh', '-c', `exit ${code}`])
  } catch {
    // SIGKILL below has the same effect except for the exit code.
  }
  process.kill(process.pid, 'SIGKILL')
  return new Promise<never>(() => {})
}
