// Reads request bodies, up to the size that access.ts set when it had checked the credential.
import type { Context } from 'hono'
import type { EdgeEnv } from './env.ts'
import { ApiError } from './errors.ts'

/** Bytes of the body as its header says, Infinity when it does not say. */
export function declaredBytes(c: Context<EdgeEnv>): number {
  const declared = c.req.header('content-length')
  return declared !== undefined && /^\d{1,15}$/.test(declared) ? Number(declared) : Number.POSITIVE_INFINITY
}

const tooLarge = (most: number) =>
  new ApiError('body_too_large', `The body is larger than ${most} bytes, the most here.`)

/**
 * How much of a body that did not say its size is still taken and dropped once it is too large: a connection that ends in the middle of
 * a body loses the reply.
 */
const DROPPED_BYTES = 32 * 1024 * 1024

/** Decodes a body of at most `most` bytes; of a larger one, takes `dropped` bytes more. */
async function decode(body: ReadableStream<Uint8Array>, most: number, dropped: number): Promise<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false })
  let [size, text] = [0, '']
  for await (const chunk of body) {
    size += chunk.byteLength
    if (size <= most) text += decoder.decode(chunk, { stream: true })
    else if (size > most + dropped) break
  }
  if (size > most) throw tooLarge(most)
  return text + decoder.decode()
}

/**
 * The body's text. It is counted as it arrives, whatever its Content-Length says, and never held beyond the limit.
 * Errors: body_too_large, invalid_request where it is not UTF-8.
 */
export async function readText(c: Context<EdgeEnv>): Promise<string> {
  const most = c.get('bodyBytes')
  if (most === undefined)
    throw new Error(`${c.req.method} ${c.req.path} read its body before its credential was checked`)
  const declared = declaredBytes(c)
  const isDeclared = declared !== Number.POSITIVE_INFINITY
  if (isDeclared && declared > most) throw tooLarge(most)
  const { body } = c.req.raw
  if (!body) return ''
  return decode(body, most, isDeclared ? 0 : DROPPED_BYTES).catch((cause) => {
    if (cause instanceof TypeError) throw new ApiError('invalid_request', 'The body is not UTF-8.')
    throw cause
  })
}
