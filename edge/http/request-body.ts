// Reads request bodies, up to the limit set by access.ts after the credential check.
import type { Context } from 'hono'
import { LIMITS } from '#contract'
import type { EdgeEnv } from './context.ts'
import { ApiError } from './errors.ts'

/** The compression of the body; null if uncompressed. Errors: unsupported_media_type. */
function compressionOf(c: Context<EdgeEnv>): 'gzip' | null {
  const encoding = c.req.header('content-encoding')?.trim().toLowerCase() ?? 'identity'
  if (encoding === 'gzip' || encoding === 'x-gzip') return 'gzip'
  if (encoding === 'identity' || encoding === '') return null
  const message = `The content-encoding is ${JSON.stringify(encoding.slice(0, 60))}; it must be gzip or left out.`
  throw new ApiError('unsupported_media_type', message)
}

/** Returns the size of the body, or Infinity if its Content-Length is missing or malformed, or if the body is compressed. */
export function readDeclaredBytes(c: Context<EdgeEnv>): number {
  if (c.req.header('content-encoding') !== undefined) return Number.POSITIVE_INFINITY
  const declared = c.req.header('content-length')
  return declared !== undefined && /^\d{1,15}$/.test(declared) ? Number(declared) : Number.POSITIVE_INFINITY
}

const createTooLargeError = (max: number) =>
  new ApiError('body_too_large', `The body exceeds the limit of ${max} bytes.`)

/**
 * Maximum number of excess bytes that are read and discarded from a body without a Content-Length. If the connection closes during the upload, the client
 * does not receive the error response.
 */
const DISCARDED_BYTES = 32 * 1024 * 1024

/** Reads a body of at most `max` bytes. Of a larger body, up to `discarded` excess bytes are read. */
async function collect(body: ReadableStream<Uint8Array>, max: number, discarded: number): Promise<Blob> {
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  for await (const chunk of body as ReadableStream<Uint8Array<ArrayBuffer>>) {
    size += chunk.byteLength
    if (size <= max) chunks.push(chunk)
    else if (size > max + discarded) break
  }
  if (size > max) throw createTooLargeError(max)
  return new Blob(chunks)
}

/** Decompresses a body up to the limit. Errors: body_too_large, invalid_request. */
async function decompress(body: ReadableStream<Uint8Array>, max: number): Promise<Blob> {
  // A valid body of this size is not larger when compressed, except for the header and trailer of gzip.
  const compressed = await collect(body, max + 1024, DISCARDED_BYTES)
  try {
    return await collect(compressed.stream().pipeThrough(new DecompressionStream('gzip')), max, 0)
  } catch (thrown) {
    if (thrown instanceof ApiError) throw thrown
    throw new ApiError('invalid_request', 'The body is not gzip, although its content-encoding is gzip.')
  }
}

/**
 * Reads the body and decompresses gzip. The bytes received are counted regardless of Content-Length, and no more than the limit is buffered.
 * Errors: body_too_large, unsupported_media_type, invalid_request.
 */
export async function readBytes(c: Context<EdgeEnv>): Promise<ArrayBuffer> {
  const bytes = await receive(c)
  c.set('bodyLength', bytes.byteLength)
  return bytes
}

/** Refuses a body that was read with more than `max` bytes. Errors: body_too_large. */
export function limitBody(c: Context<EdgeEnv>, max: number): void {
  if ((c.get('bodyLength') ?? 0) > max) throw createTooLargeError(max)
}

/** JSON characters: each value, member or nesting level needs at least one of them. Base64 contains none of them. */
const STRUCTURE = [',', ':', '[', '{']

/**
 * Refuses JSON with more structure than a body without input images can have, because parsed values need many times the memory of their
 * text. Errors: body_too_large.
 */
export function limitStructure(json: string): void {
  if (json.length <= LIMITS.requestBytes) return
  let left: number = LIMITS.requestBytes
  for (const character of STRUCTURE)
    for (let at = json.indexOf(character); at >= 0; at = json.indexOf(character, at + 1))
      if (--left < 0) throw createTooLargeError(LIMITS.requestBytes)
}

async function receive(c: Context<EdgeEnv>): Promise<ArrayBuffer> {
  const max = c.get('bodyBytes')
  if (max === undefined)
    throw new Error(`${c.req.method} ${c.req.path} read its body before its credential was checked`)
  const declared = readDeclaredBytes(c)
  const isDeclared = declared !== Number.POSITIVE_INFINITY
  if (isDeclared && declared > max) throw createTooLargeError(max)
  const { body } = c.req.raw
  if (!body) return new ArrayBuffer(0)
  if (compressionOf(c)) return (await decompress(body, max)).arrayBuffer()
  return (await collect(body, max, isDeclared ? 0 : DISCARDED_BYTES)).arrayBuffer()
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
