// Parser for the response of `PUT /jobs/{id}`: JSON lines that are validated by the contract, some followed by raw bytes.
import { type JobEvent, jobEvent } from '../../gpu-fn/contract.ts'

export type StreamEntry = { event: JobEvent; data?: Uint8Array }

/** Yields the entries of a job's stream. Throws if it ends within an entry. Leaving the loop closes the connection. */
export async function* readJobStream(body: AsyncIterable<Uint8Array>): AsyncGenerator<StreamEntry> {
  const source = body[Symbol.asyncIterator]()
  const bytes = createByteReader(source)
  try {
    for (let line = await bytes.line(); line !== undefined; line = await bytes.line()) {
      const event = jobEvent.parse(JSON.parse(line))
      yield 'bytes' in event ? { event, data: await bytes.take(event.bytes) } : { event }
    }
  } finally {
    await source.return?.()
  }
}

function createByteReader(source: AsyncIterator<Uint8Array>) {
  let rest = Buffer.alloc(0)
  const take = async (count: number): Promise<Buffer> => {
    const chunks = [rest]
    for (let bytes = rest.length; bytes < count; bytes += chunks.at(-1)!.length) {
      const { done, value } = await source.next()
      if (done) throw new Error(`the stream ended after ${bytes} of ${count} bytes`)
      chunks.push(Buffer.from(value))
    }
    const all = Buffer.concat(chunks)
    rest = all.subarray(count)
    return all.subarray(0, count)
  }
  /** Undefined at the end of the stream. */
  const line = async (): Promise<string | undefined> => {
    for (;;) {
      const end = rest.indexOf('\n')
      if (end >= 0) return (await take(end + 1)).toString('utf8')
      const { done, value } = await source.next()
      if (done && rest.length > 0) throw new Error(`the stream ended inside a line: ${rest}`)
      if (done) return undefined
      rest = Buffer.concat([rest, value])
    }
  }
  return { take, line }
}
