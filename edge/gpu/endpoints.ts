// The addresses and headers of GPU functions.
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
