// The endpoints of GPU functions: addresses, headers, and the order in which a job tries them.
import * as z from 'zod'
import { readCatalogue } from '../routing/catalogue.ts'

export type Endpoint = {
  name: string
  /** Base address of the GPU function. */
  url: string
  /** Headers that its host requires on every request, such as Modal's proxy token. */
  headers: Record<string, string>
}

const doors = z.record(z.string(), z.record(z.string(), z.string()))

/** Reads GPU_PROXY_HEADERS: endpoint → header → value, as JSON. Errors do not include values, which are secrets. */
function readDoors({ GPU_PROXY_HEADERS: given }: Pick<Env, 'GPU_PROXY_HEADERS'>): z.infer<typeof doors> {
  if (!given) return {}
  try {
    return doors.parse(JSON.parse(given))
  } catch {
    throw new Error('GPU_PROXY_HEADERS must be JSON of the form {"default": {"modal-key": "…", "modal-secret": "…"}}')
  }
}

type Served = Pick<Env, 'OCTET_CATALOGUE' | 'GPU_URL' | 'GPU_PROXY_HEADERS'>

/** The endpoint of this name. Throws if the catalogue has none. */
export function endpointOf(env: Served, name: string): Endpoint {
  const url = readCatalogue(env).endpoints[name]
  if (url === undefined) throw new Error(`the catalogue has no endpoint ${name}`)
  return { name, url, headers: readDoors(env)[name] ?? {} }
}

/** How long an endpoint that is down comes last in the order. */
const DOWN_MS = 30_000
/** Endpoint → the end of its time as last, in Unix milliseconds. Local to this isolate, because it affects only the order. */
const down = new Map<string, number>()

export const reportDown = (name: string, now = Date.now()) => void down.set(name, now + DOWN_MS)
export const reportUp = (name: string) => void down.delete(name)
export const isDown = (name: string, now = Date.now()) => (down.get(name) ?? 0) > now

/** A job's endpoints in the order for attempt n: rotated by one per attempt, with endpoints that are down last. */
export function orderOf(names: readonly string[], attempt: number, now = Date.now()): string[] {
  const turn = (attempt - 1) % names.length
  const rotated = [...names.slice(turn), ...names.slice(0, turn)]
  return rotated.toSorted((a, b) => Number(isDown(a, now)) - Number(isDown(b, now)))
}
