// Runs the hostile callers in a separate process, so that they do not skew the honest callers' measurements. The parent ends it.
import { once, setMaxListeners } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { readSettings } from '../../campaign/program.ts'
import { randomOf } from '../../campaign/random.ts'
import { type Arms, planAttacks } from './attacks.ts'
import { runOpenLoop } from './open-loop.ts'

export type HostileSettings = Omit<Arms, 'hooks' | 'jobs' | 'random' | 'over'> & {
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
const UNDER_WAY = 300

const kindOf = (status: number) => `${Math.floor(status / 100)}xx`
const faultOf = (error: unknown) => ((error as Error).name === 'TimeoutError' ? 'gave up' : 'broken off')

/** Registers the maximum number of endpoints whose receiver accepts deliveries but never responds. Returns their ids. */
async function registerHangingEndpoints({ url, hooksKey }: HostileSettings): Promise<string[]> {
  const receiver = createServer((request) => request.resume()).listen(0, '127.0.0.1')
  await once(receiver, 'listening')
  const { port } = receiver.address() as AddressInfo
  const ids: string[] = []
  while (ids.length < ENDPOINTS) {
    const response = await fetch(`${url}/v1/webhooks`, {
      method: 'POST',
      headers: { authorization: `Bearer ${hooksKey}`, 'content-type': 'application/json' },
      body: JSON.stringify({ url: `http://127.0.0.1:${port}/${ids.length}` }),
    })
    const text = await response.text()
    if (response.ok) ids.push((JSON.parse(text) as { id: string }).id)
    else if (ids.length > 0 && response.status < 500) return ids
    else throw new Error(`POST /v1/webhooks answers ${response.status}: ${text}`)
  }
  return ids
}

async function attack(settings: HostileSettings, signal: AbortSignal): Promise<Record<string, Tally>> {
  const { seed, hooksKey, attacks, jobsPerSecond } = settings
  const hooks = { key: hooksKey, endpoints: await registerHangingEndpoints(settings) }
  const arms: Arms = { ...settings, hooks, jobs: [], random: randomOf(seed, 'attacks'), over: signal }
  process.send!('ready')
  const tallies = planAttacks(attacks, jobsPerSecond).map(async ([name, perSecond, act]) => {
    const replies: Record<string, number> = {}
    const options = { perSecond, random: randomOf(seed, name), signal, most: UNDER_WAY }
    const counts = await runOpenLoop(options, async () => {
      const kind = await act(arms).then(kindOf, faultOf)
      if (signal.aborted) return
      replies[kind] = (replies[kind] ?? 0) + 1
    })
    return [name, { ...counts, replies }] as const
  })
  return Object.fromEntries(await Promise.all(tallies))
}

const over = new AbortController()
// One listener per request in flight.
setMaxListeners(0, over.signal)
process.once('message', () => over.abort())
const tallies = await attack(readSettings<HostileSettings>(), over.signal)
process.send!(tallies, () => process.exit())
