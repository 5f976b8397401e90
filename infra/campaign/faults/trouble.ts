// Process faults injected into the worker and the GPU functions under load.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '../random.ts'
import type { World } from '../world.ts'

/** Relative frequencies. */
const TROUBLES = {
  'worker killed': 4,
  'GPU function killed': 4,
  'worker and GPU functions killed': 1,
  'worker frozen': 1,
  'GPU function frozen': 2,
} as const
export type Trouble = keyof typeof TROUBLES
/** Maximum duration of a freeze. */
export const FROZEN_MS = 3000

async function injectFault({ worker, gpus }: World, trouble: Trouble, random: Random): Promise<void> {
  const gpu = gpus[random.between(0, gpus.length - 1)]!
  if (trouble === 'worker frozen') return worker.freeze(random.between(200, FROZEN_MS / 2))
  if (trouble === 'GPU function frozen') return gpu.freeze(random.between(200, FROZEN_MS))
  const all = trouble === 'worker and GPU functions killed'
  if (all || trouble === 'worker killed') await worker.kill()
  if (all) await Promise.all(gpus.map((each) => each.kill()))
  else if (trouble === 'GPU function killed') await gpu.kill()
  await sleep(random.between(0, 1000))
}

/** Injects faults until the signal aborts, then leaves all processes running. Returns the number of faults by kind. */
export async function injectTrouble(
  world: World,
  random: Random,
  signal: AbortSignal,
): Promise<Partial<Record<Trouble, number>>> {
  const counts: Partial<Record<Trouble, number>> = {}
  while (!signal.aborted) {
    await sleep(random.between(1000, 4000), null, { signal }).catch(() => {})
    const trouble = random.pick(TROUBLES)
    counts[trouble] = (counts[trouble] ?? 0) + 1
    await injectFault(world, trouble, random)
    // Also restarts a GPU function that has exited on its own.
    await Promise.all([world.worker, ...world.gpus].map((program) => program.start()))
  }
  return counts
}
