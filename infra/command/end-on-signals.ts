import { constants } from 'node:os'

/**
 * Exits on termination signals, so that `exit` handlers run, which end child processes: by default, Node runs none after a signal. Call
 * this first, because other listeners for signals may end the process in another way. The listeners remain, because without one a second
 * signal would end the process during its `exit` handlers.
 */
export function endOnSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => process.exit(128 + constants.signals[signal]))
}
