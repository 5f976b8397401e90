// Fetches an image from an address that a caller gave, under the rules for webhook addresses.
import { LIMITS } from '#contract'
import { ApiError } from '../../http/errors.ts'
import { checkAddress } from '../../webhooks/endpoints/address.ts'

const TIMEOUT_MS = 15_000
const MAX_REDIRECTS = 3
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])

const refuse = (param: string, why: string) => new ApiError('invalid_request', `${param} ${why}.`, { param })

/** The file at a public address. Each redirect is checked as the address itself is. Errors: invalid_request. */
export async function fetchImage(
  env: Env,
  ownUrl: string,
  address: string,
  param: string,
): Promise<Uint8Array<ArrayBuffer>> {
  const signal = AbortSignal.timeout(TIMEOUT_MS)
  let url = address
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    checkAddress(env, ownUrl, url, param)
    const response = await request(url, signal, param)
    if (!REDIRECTS.has(response.status)) return readImage(response, param)
    response.body?.cancel().catch(() => {})
    const next = URL.parse(response.headers.get('location') ?? '', url)
    if (!next) throw refuse(param, 'was redirected to no address')
    url = next.href
  }
  throw refuse(param, `was redirected more than ${MAX_REDIRECTS} times; give the address of the file itself`)
}

async function request(url: string, signal: AbortSignal, param: string): Promise<Response> {
  const headers = { accept: 'image/png, image/jpeg, image/webp, image/gif, image/avif', 'user-agent': 'Octet/1.0' }
  try {
    return await fetch(url, { redirect: 'manual', headers, signal })
  } catch {
    throw refuse(param, 'could not be fetched')
  }
}

async function readImage({ status, body }: Response, param: string): Promise<Uint8Array<ArrayBuffer>> {
  if (status !== 200 || !body) {
    body?.cancel().catch(() => {})
    throw refuse(param, `could not be fetched: the server replied with status ${status}`)
  }
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let bytes = 0
  try {
    for await (const chunk of body as ReadableStream<Uint8Array<ArrayBuffer>>) {
      bytes += chunk.byteLength
      if (bytes > LIMITS.inputBytes) break
      chunks.push(chunk)
    }
  } catch {
    throw refuse(param, 'could not be fetched: the connection broke or took too long')
  }
  if (bytes > LIMITS.inputBytes) throw refuse(param, `exceeds the limit of ${LIMITS.inputBytes} bytes`)
  return new Uint8Array(await new Blob(chunks).arrayBuffer())
}
