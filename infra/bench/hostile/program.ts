// Runs the hostile callers in a separate process, so that they do not skew the honest callers' measurements. The parent ends it.
import { setMaxListeners } from 'node:events'
import { serveLocally } from '../../command/local-server.ts'
import { randomOf } from '../../command/random.ts'
import { send } from '../../system/client.ts'
import { readSettings } from '../../system/program.ts'
import { type AttackContext, planAttacks } from './attacks.ts'
import { runOpenLoop } from './open-loop.ts'

export type HostileSettings = Omit<AttackContext, 'hooks' | 'jobs' | 'random' | 'end'> & {
  hooksKey: string
  seed: number
  /** The attacks to run and their total rate of jobs per second. */
  attacks: readonly string[]
  jobsPerSecond: number
}
/** Number of requests of one attack, and its responses by kind. */
export type Tally = { sent: number; skipped: number; replies: Record<string, number> }

const ENDPOINTS = 20
/** Maximum concurrent requests per attack. */
const MAX_IN_FLIGHT = 300

const kindOf = ({ status }: { status: number }) => `${Math.floor(status / 100)}xx`
const faultOf = (error: unknown) => ((error as Error).name === 'TimeoutError' ? 'timed out' : 'disconnected')

/** Registers the maximum number of endpoints whose receiver accepts deliveries but never responds. Returns their ids. */
async function registerHangingEndpoints({ url, hooksKey }: HostileSettings): Promise<string[]> {
  const receiver = await serveLocally((request) => request.resume())
  const ids: string[] = []
  while (ids.length < ENDPOINTS) {
    const body = { url: `${receiver.url}/${ids.length}` }
    const { status, text } = await send(`${url}/v1/webhooks`, hooksKey, { body })
    if (status < 300) ids.push((JSON.parse(text) as { id: string }).id)
    else if (ids.length > 0 && status < 500) return ids
    else throw new Error(`POST /v1/webhooks returned ${status}: ${text}`)
  }
  return ids
}

async function attack(settings: HostileSettings, signal: AbortSignal): Promise<Record<string, Tally>> {
  const { seed, hooksKey, attacks, jobsPerSecond } = settings
  const hooks = { key: hooksKey, endpoints: await registerHangingEndpoints(settings) }
  const context: AttackContext = { ...settings, hooks, jobs: [], random: randomOf(seed, 'attacks'), end: signal }
  process.send!('ready')
  const tallies = planAttacks(attacks, jobsPerSecond).map(async ([name, perSecond, run]) => {
    const replies: Record<string, number> = {}
    const options = { perSecond, random: randomOf(seed, name), signal, maxInFlight: MAX_IN_FLIGHT }
    const counts = await runOpenLoop(options, async () => {
      const kind = await run(context).then(kindOf, faultOf)
      if (signal.aborted) return
      replies[kind] = (replies[kind] ?? 0) + 1
    })
    return [name, { ...counts, replies }] as const
  })
  return Object.fromEntries(await Promise.all(tallies))
}

const end = new AbortController()
// One listener per request in flight.
setMaxListeners(0, end.signal)
process.once('message', () => end.abort())
const tallies = await attack(readSettings<HostileSettings>(), end.signal)
process.send!(tallies, () => process.exit())
