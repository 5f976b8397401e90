// Detects a hung engine: a call without progress for many times the duration of the longest step so far.
import type { Manifest } from '../manifest.ts'

/** Tracked separately, because loading and running differ in speed. */
export type Activity = 'load' | 'run'

export type Watch = {
  /** Reports one step of progress. */
  progress(): void
  /** Stops watching; to be called when the call ends. */
  end(): void
}

export type Stall = { activity: Activity; silentSeconds: number; limitSeconds: number; longestStepSeconds: number }

const STEPS = 20
/** Ratio of the time of CPU steps and weight loading to that of GPU steps. */
const SLOW = 10
const CHECKS = 10
const MAX_CHECK_MS = 1_000

/**
 * Watches one call at a time. Its limit is 20 times the longest step so far of the same activity, but at least `stallMs` (ten times that
 * for loads and on a CPU). `onStall` is called once.
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
        // Counts checks rather than elapsed time, so that a suspended process is not mistaken for a hung one.
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
