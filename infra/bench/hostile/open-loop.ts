// Open-loop load: requests are sent on a fixed schedule, regardless of how long earlier ones take.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '../../command/random.ts'

type LoopOptions = {
  perSecond: number
  random: Random
  signal: AbortSignal
  /** Maximum number of requests in flight; requests due beyond it are counted as skipped. Unlimited by default. */
  maxInFlight?: number
}

/** Milliseconds until the next arrival of a Poisson process. */
export const drawNextArrivalMs = (perSecond: number, random: Random) =>
  (-Math.log(1 - random.next()) * 1000) / perSecond

/**
 * Calls `send` at once and then as a Poisson process with a mean rate of `perSecond` until the signal aborts, passing the scheduled
 * time (`performance.now()`). Resolves with the number of calls when all have ended. `send` must not reject.
 */
export async function runOpenLoop(
  { perSecond, random, signal, maxInFlight = Number.POSITIVE_INFINITY }: LoopOptions,
  send: (due: number) => Promise<void>,
): Promise<{ sent: number; skipped: number }> {
  const inFlight = new Set<Promise<void>>()
  const counts = { sent: 0, skipped: 0 }
  for (let due = performance.now(); ; due += drawNextArrivalMs(perSecond, random)) {
    await sleep(Math.max(0, due - performance.now()), null, { signal }).catch(() => {})
    if (signal.aborted) break
    if (inFlight.size >= maxInFlight) {
      counts.skipped += 1
      continue
    }
    counts.sent += 1
    const call = send(due).finally(() => inFlight.delete(call))
    inFlight.add(call)
  }
  await Promise.all(inFlight)
  return counts
}
