// Attack: an expensive job on a cheap reservation. The worker is killed during many cheap PUTs, followed by expensive PUTs under the same
// names. Each name must belong to exactly one of its two bodies.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '../../command/random.ts'
import { persistent } from '../../system/client.ts'
import { type Caller, claim, createCheapAndExpensive, type Experience, judgeClaims } from '../callers.ts'
import type { World } from '../world.ts'

const NAMES = 60
/** Delays from the first PUT to the kill: before, during and after most admissions. */
const KILL_MS = { min: 5, max: 250 }

/** Runs one round of the attack, with names unique to the round. */
export async function attackReservations(
  { target, customers, worker }: World,
  round: number,
  random: Random,
): Promise<Experience[]> {
  const { key } = customers[random.between(0, customers.length - 1)]!
  const callers = Array.from({ length: NAMES }, (_, index): Caller => {
    const name = `takeover-${round}-${index}`
    return { client: persistent, url: target.url, key, name, body: {}, delayMs: 0 }
  })
  const createBodies = ({ name }: Caller) => createCheapAndExpensive(`picture of ${name}`)
  const first = callers.map((caller) => {
    const sending = { method: 'PUT', body: createBodies(caller)[0] }
    return persistent.send(`${target.url}/v1/jobs/${caller.name}`, key, sending).catch(() => {})
  })
  await sleep(random.between(KILL_MS.min, KILL_MS.max))
  await worker.kill()
  await Promise.all(first)
  await worker.start()
  return Promise.all(
    callers.map(async (caller) => {
      const [cheap, expensive] = createBodies(caller)
      const claims = [await claim(caller, expensive), await claim(caller, cheap)]
      return { behavior: 'takes over a name', ...judgeClaims(caller.name, claims) }
    }),
  )
}
