import { constants } from 'node:os'

/**
 * Exits on termination signals, so that `exit` handlers run, which end child processes: by default, Node runs none after a signal. Call
 * this first, because other listeners for signals may end the process in another way.
 */
export function endOnSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => process.exit(128 + constants.signals[signal]))
}
