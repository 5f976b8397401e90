// Requests to the worker with the catalog of wrangler.toml, in which nano is the model.
import { createExecutionContext, waitOnExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { app } from '../../../edge/app.ts'
import { ORIGIN } from './client.ts'
import { createEnvWith } from './config.ts'

export const shippedEnv = createEnvWith({ OCTET_CATALOG: env.SHIPPED_CATALOG })

/** Sends a request to the worker with the catalog of wrangler.toml. Work after the response is complete once its body is read. */
export async function fetchShipped(input: RequestInfo | URL, init?: RequestInit): Promise<Response> {
  const context = createExecutionContext()
  const address = input instanceof Request ? input : new URL(String(input), ORIGIN)
  const response = await app.fetch(new Request(address, init), shippedEnv, context)
  const body = await response.arrayBuffer()
  await waitOnExecutionContext(context)
  return new Response(response.status === 204 ? null : body, response)
}
