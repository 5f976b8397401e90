// The endpoints of GPU functions: addresses, headers, and the order in which a job tries them.
import { configOf } from '../config.ts'

export type Endpoint = {
  name: string
  /** Base address of the GPU function. */
  url: string
  /** Headers that its host requires on every request, such as Modal's proxy token. */
  headers: Record<string, string>
}

/** The endpoint of this name. Throws if the catalog has none. */
export function endpointOf(env: Env, name: string): Endpoint {
  const { catalog, proxyHeaders } = configOf(env)
  const url = catalog.endpoints[name]
  if (url === undefined) throw new Error(`the catalog has no endpoint ${name}`)
  return { name, url, headers: proxyHeaders[name] ?? {} }
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
