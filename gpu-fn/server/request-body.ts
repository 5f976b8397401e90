// Reads a request's body within the contract's limit.
import { LIMITS } from '../contract.ts'
import { Refusal } from './refusal.ts'

/** Beyond this the connection is given up rather than read to its end. */
const DISCARD_BYTES = 16 * LIMITS.requestBytes

/**
 * The body's bytes; throws a 413 Refusal when there are more than the contract allows.
 * What is too much is read and dropped first: a reply that overtakes its request is lost to many clients, together with the
 * kept-alive connection, which is why hono's body limit does not do here.
 */
export async function readBody(request: Request): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  try {
    for await (const chunk of request.body ?? []) {
      bytes += chunk.byteLength
      if (bytes <= LIMITS.requestBytes) chunks.push(chunk)
      else if (bytes > DISCARD_BYTES) break
    }
  } catch (cause) {
    throw new Refusal('invalid_request', 'the body broke off', { cause })
  }
  if (bytes > LIMITS.requestBytes)
    throw new Refusal('request_too_large', `the body may have ${LIMITS.requestBytes} bytes at most`)
  return Buffer.concat(chunks)
}
