// Faults injected under load. Each function injects one fault and returns its count by kind.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '../../command/random.ts'
import type { World } from '../world.ts'

export type Counts = Record<string, number>

/** Relative frequencies. */
const PROCESS_FAULTS = {
  'worker killed': 4,
  'GPU function killed': 4,
  'worker and GPU functions killed': 1,
  'worker frozen': 1,
  'GPU function frozen': 2,
} as const
/** Maximum duration of a freeze. */
export const FROZEN_MS = 3000

/** Kills or freezes processes, and restarts those that have ended. */
export async function disturbProcesses({ worker, gpus }: World, random: Random): Promise<Counts> {
  const fault = random.pick(PROCESS_FAULTS)
  const gpu = gpus[random.between(0, gpus.length - 1)]!
  const killed = {
    'worker killed': [worker],
    'GPU function killed': [gpu],
    'worker and GPU functions killed': [worker, ...gpus],
    'worker frozen': [],
    'GPU function frozen': [],
  }[fault]
  if (fault === 'worker frozen') await worker.freeze(random.between(200, FROZEN_MS / 2))
  if (fault === 'GPU function frozen') await gpu.freeze(random.between(200, FROZEN_MS))
  for (const program of killed) await program.kill()
  if (killed.length > 0) await sleep(random.between(0, 1000))
  // Also restarts a GPU function that has exited on its own.
  await Promise.all([worker, ...gpus].map((program) => program.start()))
  return { [fault]: 1 }
}

/** Resets every Durable Object, as a deploy of the worker does, without restarting any process. */
export async function resetObjects({ target }: Pick<World, 'target'>): Promise<Counts> {
  const headers = { authorization: `Bearer ${target.token}` }
  const response = await fetch(`${target.url}/campaign/reset`, { method: 'POST', headers })
  if (!response.ok) throw new Error(`POST /campaign/reset returned ${response.status}`)
  const counts = Object.entries((await response.json()) as Counts)
  return { deploys: 1, ...Object.fromEntries(counts.map(([kind, count]) => [`${kind} objects reset`, count])) }
}
