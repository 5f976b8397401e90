// Parses the response stream of the GPU function: JSON lines, where a line with `bytes: n` is followed by n raw bytes. Any violation of
// gpu-fn/contract.ts ends the stream with StreamLost, so that no incomplete image is passed on.
import { type JobEvent, jobEvent, LIMITS } from '#contract'
import { sha256 } from '../auth/keys.ts'

/** The stream ended, was silent for too long, or violated the contract before the job's end. The job itself may still be running. */
export class StreamLost extends Error {
  override name = 'StreamLost' as const
}

export type Frame = { event: JobEvent; data?: Uint8Array<ArrayBuffer> }

type Chunk = ReadableStreamReadResult<Uint8Array>

/** The limits of a read: the longest silence, and a signal that ends it with the signal's reason. */
type Patience = { silenceMs: number; signal: AbortSignal }

/** Reads a chunk. Throws StreamLost after `silenceMs` without one, and the signal's reason if aborted. */
async function readWithin(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  { silenceMs, signal }: Patience,
): Promise<Chunk> {
  const { promise: overdue, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => reject(new StreamLost(`no data for ${silenceMs} ms`)), silenceMs)
  const onAbort = () => reject(signal.reason)
  signal.addEventListener('abort', onAbort)
  try {
    signal.throwIfAborted()
    return await Promise.race([reader.read(), overdue])
  } catch (cause) {
    signal.throwIfAborted()
    throw cause instanceof StreamLost ? cause : new StreamLost('the connection broke', { cause })
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
  }
}

/** The first `limit` bytes of a body as text, or fewer if it ended, broke or timed out before. */
export async function readStart(body: ReadableStream<Uint8Array>, limit: number, patience: Patience): Promise<string> {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let text = ''
  try {
    for (let left = limit; left > 0; ) {
      const { value } = await readWithin(reader, patience)
      if (!value) break
      text += decoder.decode(value.subarray(0, left), { stream: true })
      left -= value.length
    }
  } catch {
    // The part received so far is the result.
  } finally {
    reader.cancel().catch(() => {})
  }
  return text
}

/** Reads lines and byte counts from a stream. `pull` returns the next chunk, or null at the end. */
function createByteReader(pull: () => Promise<Uint8Array | null>) {
  let rest: Uint8Array = new Uint8Array()
  return {
    /** The next line without its newline; null at the end of the stream. */
    async line(limit: number): Promise<Uint8Array | null> {
      const parts: Uint8Array[] = []
      for (let length = 0; ; ) {
        const end = rest.indexOf(10)
        const part = end < 0 ? rest : rest.subarray(0, end)
        length += part.length
        if (length > limit) throw new StreamLost(`a line is longer than ${limit} bytes`)
        parts.push(part)
        if (end >= 0) {
          rest = rest.subarray(end + 1)
          return concatenate(parts, length)
        }
        const chunk = await pull()
        if (!chunk && length > 0) throw new StreamLost('the stream ended inside a line')
        if (!chunk) return null
        rest = chunk
      }
    },
    async exactly(count: number): Promise<Uint8Array<ArrayBuffer>> {
      const data = new Uint8Array(count)
      for (let filled = 0; filled < count; ) {
        if (rest.length === 0) {
          const chunk = await pull()
          if (!chunk) throw new StreamLost(`the stream ended ${count - filled} bytes before the end of an image`)
          rest = chunk
        }
        const part = rest.subarray(0, count - filled)
        data.set(part, filled)
        filled += part.length
        rest = rest.subarray(part.length)
      }
      return data
    },
  }
}

function concatenate(parts: readonly Uint8Array[], length: number): Uint8Array {
  const whole = new Uint8Array(length)
  let offset = 0
  for (const part of parts) {
    whole.set(part, offset)
    offset += part.length
  }
  return whole
}

function parseEvent(line: Uint8Array): JobEvent {
  try {
    return jobEvent.parse(JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(line)))
  } catch (cause) {
    throw new StreamLost('a line is not an event of the contract', { cause })
  }
}

const TERMINAL: ReadonlySet<JobEvent['type']> = new Set(['succeeded', 'failed', 'canceled'])

/**
 * Yields the events of a response body up to and including the terminal one. An `image` has its bytes, verified against its SHA-256. Throws
 * StreamLost if the stream ends early, is silent for too long, or violates the contract, and the signal's reason if aborted.
 */
export async function* readFrames(body: ReadableStream<Uint8Array>, patience: Patience): AsyncGenerator<Frame> {
  const reader = body.getReader()
  const bytes = createByteReader(async () => (await readWithin(reader, patience)).value ?? null)
  try {
    for (;;) {
      const line = await bytes.line(LIMITS.eventLineBytes)
      if (line === null) throw new StreamLost('the stream ended before the job did')
      const event = parseEvent(line)
      if ('bytes' in event) {
        const data = await bytes.exactly(event.bytes)
        if (event.type === 'image' && (await sha256(data)) !== event.sha256)
          throw new StreamLost(`image ${event.image} does not match its SHA-256`)
        yield { event, data }
      } else {
        yield { event }
      }
      if (TERMINAL.has(event.type)) return
    }
  } finally {
    // Not awaited: canceling the body of a dead connection may never settle.
    reader.cancel().catch(() => {})
  }
}
