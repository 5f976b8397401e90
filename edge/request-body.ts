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

/** Decodes at most `most` bytes. Leaving the loop early cancels the stream. */
async function decode(body: ReadableStream<Uint8Array>, most: number): Promise<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false })
  let [size, text] = [0, '']
  for await (const chunk of body) {
    size += chunk.byteLength
    if (size > most) throw tooLarge(most)
    text += decoder.decode(chunk, { stream: true })
  }
  return text + decoder.decode()
}

/**
 * The body's text. It is counted as it arrives, whatever its Content-Length says; the rest of one that is too large stays unread.
 * Errors: body_too_large, invalid_request where it is not UTF-8.
 */
export async function readText(c: Context<EdgeEnv>): Promise<string> {
  const most = c.get('bodyBytes')
  if (most === undefined)
    throw new Error(`${c.req.method} ${c.req.path} read its body before its credential was checked`)
  const declared = declaredBytes(c)
  if (declared !== Number.POSITIVE_INFINITY && declared > most) throw tooLarge(most)
  const { body } = c.req.raw
  if (!body) return ''
  return decode(body, most).catch((cause) => {
    if (cause instanceof TypeError) throw new ApiError('invalid_request', 'The body is not UTF-8.')
    throw cause
  })
}
