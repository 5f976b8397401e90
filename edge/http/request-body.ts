// Reads request bodies, up to the limit set by access.ts after the credential check.
import type { Context } from 'hono'
import type { EdgeEnv } from './context.ts'
import { ApiError } from './errors.ts'

/** Returns the Content-Length of the body, or Infinity if it is missing or malformed. */
export function declaredBytes(c: Context<EdgeEnv>): number {
  const declared = c.req.header('content-length')
  return declared !== undefined && /^\d{1,15}$/.test(declared) ? Number(declared) : Number.POSITIVE_INFINITY
}

const tooLarge = (most: number) => new ApiError('body_too_large', `The body exceeds the limit of ${most} bytes.`)

/**
 * How many excess bytes of a body without a Content-Length are read and discarded. If the connection closes during the upload, the client
 * does not receive the error response.
 */
const DISCARDED_BYTES = 32 * 1024 * 1024

/** Reads a body of at most `most` bytes. Of a larger body, up to `discarded` excess bytes are read. */
async function collect(body: ReadableStream<Uint8Array<ArrayBuffer>>, most: number, discarded: number): Promise<Blob> {
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  for await (const chunk of body) {
    size += chunk.byteLength
    if (size <= most) chunks.push(chunk)
    else if (size > most + discarded) break
  }
  if (size > most) throw tooLarge(most)
  return new Blob(chunks)
}

/**
 * Reads the body. The bytes received are counted regardless of Content-Length, and no more than the limit is buffered. Errors:
 * body_too_large.
 */
export async function readBytes(c: Context<EdgeEnv>): Promise<ArrayBuffer> {
  const most = c.get('bodyBytes')
  if (most === undefined)
    throw new Error(`${c.req.method} ${c.req.path} read its body before its credential was checked`)
  const declared = declaredBytes(c)
  const isDeclared = declared !== Number.POSITIVE_INFINITY
  if (isDeclared && declared > most) throw tooLarge(most)
  const { body } = c.req.raw
  if (!body) return new ArrayBuffer(0)
  return (await collect(body, most, isDeclared ? 0 : DISCARDED_BYTES)).arrayBuffer()
}

/** Reads the body as text. Errors: body_too_large, invalid_request (not UTF-8). */
export async function readText(c: Context<EdgeEnv>): Promise<string> {
  const bytes = await readBytes(c)
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes)
  } catch {
    throw new ApiError('invalid_request', 'The body is not UTF-8.')
  }
}
