// Resets every Durable Object under load, as a deploy of the worker does, without restarting any process.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '../random.ts'
import type { World } from '../world.ts'

/** Resets all objects repeatedly until the signal aborts. Returns the number of resets per kind of object. */
export async function resetObjects(
  { target }: Pick<World, 'target'>,
  random: Random,
  signal: AbortSignal,
): Promise<Record<string, number>> {
  const counts: Record<string, number> = { deploys: 0 }
  while (!signal.aborted) {
    await sleep(random.between(300, 2500), null, { signal }).catch(() => {})
    const headers = { authorization: `Bearer ${target.token}` }
    const response = await fetch(`${target.url}/campaign/reset`, { method: 'POST', headers })
    if (!response.ok) throw new Error(`the campaign's worker refused a reset: ${response.status}`)
    counts.deploys! += 1
    for (const [kind, count] of Object.entries((await response.json()) as Record<string, number>)) {
      const name = `${kind} objects reset`
      counts[name] = (counts[name] ?? 0) + count
    }
  }
  return counts
}
