// Cleanup at the exit of a command, including exits on a signal: temporary directories (scratch.ts) and child processes (child-process.ts).

const cleanups = new Set<() => void>()
let isListening = false

/** Runs the newest cleanup first, so that a child process is killed before its output directory is removed. */
function cleanUp(): void {
  for (const cleanup of [...cleanups].toReversed()) {
    try {
      cleanup()
    } catch (error) {
      console.error((error as Error).message)
    }
  }
}

/**
 * Registers `cleanup` for the exit of this process; for signals, the command must call `endOnSignals`. Returns a function that unregisters
 * it.
 */
export function runAtExit(cleanup: () => void): () => void {
  if (!isListening) process.once('exit', cleanUp)
  isListening = true
  cleanups.add(cleanup)
  return () => void cleanups.delete(cleanup)
}
