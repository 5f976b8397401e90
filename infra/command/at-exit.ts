// What a command removes if it ends early: temporary directories (scratch.ts) and child processes (child-process.ts).

const cleanups = new Set<() => void>()
let isListening = false

/** The newest cleanup first, so that a process ends before the directory in which it writes is removed. */
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
 * Calls `cleanup` at the exit of this process, also by a signal if the command calls `endOnSignals`. Returns a function that cancels
 * the call.
 */
export function atExit(cleanup: () => void): () => void {
  if (!isListening) process.once('exit', cleanUp)
  isListening = true
  cleanups.add(cleanup)
  return () => void cleanups.delete(cleanup)
}
