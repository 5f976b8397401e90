// Which GPU functions a job may run on, in which order they are asked, and what passes their front doors.
import * as z from 'zod'
import { readCatalogue } from './catalogue.ts'
import type { Env } from './env.ts'

export type Endpoint = {
  name: string
  /** Base address of the GPU function. */
  url: string
  /** What its host wants to see on every request, such as Modal's proxy token. */
  headers: Record<string, string>
}

const doors = z.record(z.string(), z.record(z.string(), z.string()))

/** Reads GPU_PROXY_HEADERS: endpoint → header → value, as JSON. Throws without telling the value, which is a secret. */
function readDoors({ GPU_PROXY_HEADERS: given }: Pick<Env, 'GPU_PROXY_HEADERS'>): z.infer<typeof doors> {
  if (!given) return {}
  try {
    return doors.parse(JSON.parse(given))
  } catch {
    throw new Error('GPU_PROXY_HEADERS must be JSON of the form {"default": {"modal-key": "…", "modal-secret": "…"}}')
  }
}

type Served = Pick<Env, 'OCTET_CATALOGUE' | 'GPU_URL' | 'GPU_PROXY_HEADERS'>

/** The endpoint of this name. Throws when the catalogue has none. */
export function endpointOf(env: Served, name: string): Endpoint {
  const url = readCatalogue(env).endpoints[name]
  if (url === undefined) throw new Error(`the catalogue has no endpoint ${name}`)
  return { name, url, headers: readDoors(env)[name] ?? {} }
}

/** How long an endpoint that did not answer like one is asked after the others. */
const DOWN_MS = 30_000
/** What this isolate has seen: endpoint → when it may be first again. Others see for themselves; nothing depends on it but the order. */
const down = new Map<string, number>()

export const reportDown = (name: string, now = Date.now()) => void down.set(name, now + DOWN_MS)
export const reportUp = (name: string) => void down.delete(name)
export const isDown = (name: string, now = Date.now()) => (down.get(name) ?? 0) > now

/** The endpoints of a job in the order of attempt n: the preferred ones first, each attempt begins with another, and those that are down come last. */
export function orderOf(names: readonly string[], attempt: number, now = Date.now()): string[] {
  const turn = (attempt - 1) % names.length
  const rotated = [...names.slice(turn), ...names.slice(0, turn)]
  return rotated.toSorted((a, b) => Number(isDown(a, now)) - Number(isDown(b, now)))
}
