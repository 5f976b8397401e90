// Detects an engine that hangs: a call that reports no progress for many times the longest step so far.
import type { Manifest } from './compile/manifest.ts'

/** Loading a model and running one have different paces. */
export type Activity = 'load' | 'run'

export type Watch = {
  /** Reports that the call got one step further. */
  progress(): void
  /** Ends the watch, when the call has ended. */
  end(): void
}

export type Stall = { activity: Activity; silentSeconds: number; limitSeconds: number; longestStepSeconds: number }

const STEPS = 20
/** Steps on a CPU, and reading gigabytes of weights, are this much slower than steps on a GPU. */
const SLOW = 10
const CHECKS = 10
const MAX_CHECK_MS = 1_000

/**
 * Calls are watched one at a time. The limit of a call is 20 times the longest step of its activity so far, and at least `stallMs`: ten
 * times that for loads and on a CPU. `onStall` is called once.
 */
export function createWatchdog(stallMs: number, onStall: (stall: Stall) => void) {
  const longestMs: Record<Activity, number> = { load: 0, run: 0 }
  const checkMs = Math.min(MAX_CHECK_MS, stallMs / CHECKS)
  return {
    watch(activity: Activity, target: Manifest['target']): Watch {
      const floorMs = stallMs * (activity === 'load' || target === 'cpu' ? SLOW : 1)
      let since = performance.now()
      let silentMs = 0
      const timer = setInterval(() => {
        // Checks are counted instead of time, so that a process that was suspended does not look like one that hangs.
        silentMs += checkMs
        const limitMs = Math.max(floorMs, STEPS * longestMs[activity])
        if (silentMs < limitMs) return
        clearInterval(timer)
        onStall({
          activity,
          silentSeconds: silentMs / 1000,
          limitSeconds: limitMs / 1000,
          longestStepSeconds: longestMs[activity] / 1000,
        })
      }, checkMs).unref()
      return {
        progress() {
          const now = performance.now()
          longestMs[activity] = Math.max(longestMs[activity], now - since)
          since = now
          silentMs = 0
        },
        end: () => clearInterval(timer),
      }
    },
  }
}

export type Watchdog = ReturnType<typeof createWatchdog>
