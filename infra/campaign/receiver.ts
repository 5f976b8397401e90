// A webhook receiver that fails every second time, and verifies the signature, the id and the images of each event.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { Webhook } from 'standardwebhooks'
import type { Random } from './random.ts'

/** Relative frequencies of failures to accept an event. */
const FAILURES = { error: 5, busy: 1, cut: 3, silence: 1, redirect: 2, 'taken and lost': 3 } as const

type Image = { url: string; sha256: string }
type Payload = { type: string; data: { id: string; state: string; images: Image[] } }
/** The events of one job. */
export type Told = { ids: Set<string>; states: Set<string>; attempts: number; taken: number }
type Endpoint = { secret: Webhook; told: Map<string, Told> }

/** Downloads an image of an event, with retries while the worker is down. Returns null, or what is wrong with the response. */
async function complaintOf({ url, sha256 }: Image): Promise<string | null> {
  for (;;) {
    try {
      const response = await fetch(url)
      const file = new Uint8Array(await response.arrayBuffer())
      if (response.status !== 200) return `${url} returned ${response.status} after its event`
      return createHash('sha256').update(file).digest('hex') === sha256 ? null : `${url} is another image`
    } catch {
      await sleep(200)
    }
  }
}

function note({ told }: Endpoint, { data }: Payload, id: string, taken: boolean): void {
  const known = told.get(data.id) ?? { ids: new Set(), states: new Set(), attempts: 0, taken: 0 }
  told.set(data.id, {
    ids: known.ids.add(id),
    states: known.states.add(data.state),
    attempts: known.attempts + 1,
    taken: known.taken + (taken ? 1 : 0),
  })
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
  const looks: Promise<void>[] = []

  const look = async ({ data }: Payload) => {
    for (const image of data.images) {
      const complaint = await complaintOf(image)
      if (complaint) complaints.push(complaint)
    }
  }
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const failure = random.chance(0.5) ? random.pick(FAILURES) : null
    const endpoint = endpoints.get(request.url!.slice(1))!
    const headers = request.headers as Record<string, string>
    const body = await text(request).catch(() => null)
    // The worker was killed during the delivery.
    if (body === null) return response.destroy()
    const payload = endpoint.secret.verify(body, headers) as Payload
    note(endpoint, payload, headers['webhook-id']!, failure === null)
    looks.push(look(payload))
    if (failure) fail(response, failure)
    else response.writeHead(204).end()
  }
  const server = createServer((request, response) => {
    handle(request, response).catch((cause) => {
      complaints.push(`a delivery to ${request.url} is invalid: ${cause}`)
      response.writeHead(400).end()
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const events = () => [...endpoints.values()].flatMap(({ told }) => [...told.values()])
  return {
    address: (account: string) => `http://127.0.0.1:${(server.address() as AddressInfo).port}/${account}`,
    expect: (account: string, secret: string) =>
      endpoints.set(account, { secret: new Webhook(secret), told: new Map() }),
    /** The events of an account, by job. */
    toldTo: (account: string): ReadonlyMap<string, Told> => endpoints.get(account)!.told,
    counts: () => ({
      attempts: events().reduce((total, { attempts }) => total + attempts, 0),
      taken: events().reduce((total, { taken }) => total + taken, 0),
    }),
    /** All complaints, once every image has been checked. */
    complaints: async () => {
      await Promise.all(looks)
      return complaints
    },
    stop: async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}
export type Receiver = Awaited<ReturnType<typeof startReceiver>>
