// What befalls the worker and the GPU function while callers call.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from './random.ts'
import type { World } from './world.ts'

/** How often each comes, relative to the others. */
const TROUBLES = {
  'worker killed': 4,
  'GPU function killed': 4,
  'both killed': 1,
  'worker frozen': 1,
  'GPU function frozen': 2,
} as const
export type Trouble = keyof typeof TROUBLES

async function strike({ worker, gpu }: World, trouble: Trouble, random: Random): Promise<void> {
  if (trouble === 'worker frozen') return worker.freeze(random.between(200, 1500))
  if (trouble === 'GPU function frozen') return gpu.freeze(random.between(200, 3000))
  if (trouble !== 'GPU function killed') await worker.kill()
  if (trouble !== 'worker killed') await gpu.kill()
  await sleep(random.between(0, 1000))
}

/** Strikes until the signal; then both run. Returns how often what happened. */
export async function makeTrouble(
  world: World,
  random: Random,
  signal: AbortSignal,
): Promise<Partial<Record<Trouble, number>>> {
  const counts: Partial<Record<Trouble, number>> = {}
  while (!signal.aborted) {
    await sleep(random.between(1000, 4000), null, { signal }).catch(() => {})
    const trouble = random.pick(TROUBLES)
    counts[trouble] = (counts[trouble] ?? 0) + 1
    await strike(world, trouble, random)
    // A GPU function that has given itself up is started again as well.
    await Promise.all([world.worker.start(), world.gpu.start()])
  }
  return counts
}
