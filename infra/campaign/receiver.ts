// A webhook receiver that fails every second time, and verifies the signature, the id and the images of each event.
import { createHash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { Webhook } from 'standardwebhooks'
import { serveLocally } from '../command/local-server.ts'
import type { Random } from '../command/random.ts'

/** Relative frequencies of failures to accept an event. */
const FAILURES = { error: 5, busy: 1, cut: 3, silence: 1, redirect: 2, 'response lost': 3 } as const

type Image = { url: string; sha256: string }
type Payload = { type: string; data: { id: string; state: string; images: Image[] } }
/** The events of one job, with the number of their deliveries. */
export type Events = { ids: Set<string>; states: Set<string>; attempts: number; accepted: number }
type Endpoint = { secret: Webhook; jobs: Map<string, Events> }

/** Downloads an image of an event, with retries while the worker is down. Returns the error in the response, or null. */
async function findImageError({ url, sha256 }: Image): Promise<string | null> {
  for (;;) {
    try {
      const response = await fetch(url)
      const file = new Uint8Array(await response.arrayBuffer())
      if (response.status !== 200) return `${url} returned ${response.status} after its event`
      return createHash('sha256').update(file).digest('hex') === sha256 ? null : `${url} returned another image`
    } catch {
      await sleep(200)
    }
  }
}

function record({ jobs }: Endpoint, { data }: Payload, id: string, accepted: boolean): void {
  const known = jobs.get(data.id) ?? { ids: new Set(), states: new Set(), attempts: 0, accepted: 0 }
  jobs.set(data.id, known)
  known.ids.add(id)
  known.states.add(data.state)
  known.attempts += 1
  known.accepted += accepted ? 1 : 0
}

function fail(response: ServerResponse, failure: keyof typeof FAILURES): void {
  if (failure === 'error') response.writeHead(500).end('no')
  else if (failure === 'busy') response.writeHead(429, { 'retry-after': '1' }).end()
  else if (failure === 'redirect') response.writeHead(302, { location: '/elsewhere' }).end()
  else if (failure !== 'silence') response.destroy()
}

/** Starts the receiver, with one address per account. */
export async function startReceiver(random: Random) {
  const endpoints = new Map<string, Endpoint>()
  const complaints: string[] = []
  const downloads: Promise<unknown>[] = []
  const check = async (image: Image) => {
    const error = await findImageError(image)
    if (error) complaints.push(error)
  }
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const failure = random.chance(0.5) ? random.pick(FAILURES) : null
    const endpoint = endpoints.get(request.url!.slice(1))!
    const headers = request.headers as Record<string, string>
    const body = await text(request).catch(() => null)
    // The worker was killed during the delivery.
    if (body === null) return response.destroy()
    const payload = endpoint.secret.verify(body, headers) as Payload
    record(endpoint, payload, headers['webhook-id']!, failure === null)
    downloads.push(...payload.data.images.map(check))
    if (failure) fail(response, failure)
    else response.writeHead(204).end()
  }
  const { url, stop } = await serveLocally((request, response) => {
    handle(request, response).catch((cause) => {
      complaints.push(`a delivery to ${request.url} is invalid: ${cause}`)
      response.writeHead(400).end()
    })
  })
  const listEvents = () => [...endpoints.values()].flatMap(({ jobs }) => [...jobs.values()])
  return {
    stop,
    address: (account: string) => `${url}/${account}`,
    expect: (account: string, secret: string) =>
      endpoints.set(account, { secret: new Webhook(secret), jobs: new Map() }),
    /** The events of an account, by job. */
    eventsOf: (account: string): ReadonlyMap<string, Events> => endpoints.get(account)!.jobs,
    counts: () => ({
      attempts: listEvents().reduce((total, { attempts }) => total + attempts, 0),
      accepted: listEvents().reduce((total, { accepted }) => total + accepted, 0),
    }),
    /** All complaints, once every image has been checked. */
    complaints: async () => {
      await Promise.all(downloads)
      return complaints
    },
  }
}
export type Receiver = Awaited<ReturnType<typeof startReceiver>>
