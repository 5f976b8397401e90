import { constants } from 'node:os'

/**
 * Ends this process on the signals that ask for it, at any point of its life, so that the `exit` handlers of what it started run: node
 * runs none when a signal ends it. Call it first: others who listen for signals then come too late to end it another way.
 */
export function endOnSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => process.exit(128 + constants.signals[signal]))
}
