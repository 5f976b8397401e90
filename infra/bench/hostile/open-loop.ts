// Open-loop load: requests leave on a schedule of their own, however long earlier ones take.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '../../campaign/random.ts'

export type LoopOptions = {
  perSecond: number
  random: Random
  signal: AbortSignal
  /** No request leaves while this many are under way; it counts as skipped. Unbounded by default. */
  most?: number
}

/** Milliseconds to the next arrival of a Poisson process. */
export const nextArrivalMs = (perSecond: number, random: Random) => (-Math.log(1 - random.next()) * 1000) / perSecond

/**
 * Calls `send` at random moments, `perSecond` a second on average, until the signal, with the moment at which the call was due
 * (`performance.now()`). Resolves once every call has ended, with their number. `send` must not reject.
 */
export async function runOpenLoop(
  { perSecond, random, signal, most = Number.POSITIVE_INFINITY }: LoopOptions,
  send: (due: number) => Promise<void>,
): Promise<{ sent: number; skipped: number }> {
  const underWay = new Set<Promise<void>>()
  const counts = { sent: 0, skipped: 0 }
  let due = performance.now()
  while (!signal.aborted) {
    due += nextArrivalMs(perSecond, random)
    await sleep(Math.max(0, due - performance.now()), null, { signal }).catch(() => {})
    if (signal.aborted) break
    if (underWay.size >= most) {
      counts.skipped += 1
      continue
    }
    counts.sent += 1
    const call = send(due).finally(() => underWay.delete(call))
    underWay.add(call)
  }
  await Promise.all(underWay)
  return counts
}
