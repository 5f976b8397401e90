// Reads a request's body within the contract's limit.
import { LIMITS } from '../contract.ts'
import { Refusal } from './refusal.ts'

/** Longer bodies are not read to the end. */
const DISCARD_BYTES = 16 * LIMITS.requestBytes

/**
 * The body's bytes. Throws a 413 Refusal if there are more than the contract allows, after reading the excess: many clients lose a reply that
 * arrives before they have sent the request, and the kept-alive connection with it. hono's body limit replies early.
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
