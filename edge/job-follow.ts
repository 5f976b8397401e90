// A job's server-sent events for a reader of the API. The stream survives resets of the job's object.
import type { Env } from './env.ts'
import { ApiError } from './errors.ts'
import { objectOf } from './objects.ts'

const END_OF_EVENT = '\n\n'
/** Consecutive failures to read after which the stream ends with an error. */
const MOST_FAILURES = 5

type Source = ReadableStreamDefaultReader<Uint8Array>

/**
 * The events of a job after entry `after`, until its end. When the job's object is reset, the stream continues behind the last whole event,
 * so that the reader gets each event once. Errors: rate_limited when the job has too many readers.
 */
export async function followJob(
  env: Pick<Env, 'JOB'>,
  job: string,
  after: number,
): Promise<ReadableStream<Uint8Array>> {
  const reader = crypto.randomUUID()
  const open = async (last: number): Promise<Source> => {
    const stream = await objectOf(env.JOB, job).follow(last, reader)
    if (stream) return stream.getReader()
    const message = 'This job has as many event streams as it may have; close one, or poll GET /v1/jobs/{id}.'
    throw new ApiError('rate_limited', message, { headers: { 'retry-after': '10' } })
  }
  let [source, last, rest, failures] = [await open(after), after, '', 0]
  let decoder = new TextDecoder()
  const encoder = new TextEncoder()

  async function read(): Promise<string | null> {
    try {
      const { value, done } = await source.read()
      failures = 0
      return done ? null : decoder.decode(value, { stream: true })
    } catch (cause) {
      if (++failures > MOST_FAILURES) throw cause
      ;[source, rest, decoder] = [await open(last), '', new TextDecoder()]
      return ''
    }
  }

  return new ReadableStream({
    async pull(controller) {
      for (;;) {
        const text = await read()
        if (text === null) return controller.close()
        rest += text
        const end = rest.lastIndexOf(END_OF_EVENT)
        if (end < 0) continue
        const events = rest.slice(0, end + END_OF_EVENT.length)
        rest = rest.slice(events.length)
        last = lastId(events) ?? last
        return controller.enqueue(encoder.encode(events))
      }
    },
    async cancel(reason) {
      await source.cancel(reason).catch(() => {})
    },
  })
}

/** The id of the last event of a text of whole events; null when none has one. */
function lastId(events: string): number | null {
  const line = events.split('\n').findLast((each) => each.startsWith('id: '))
  return line === undefined ? null : Number(line.slice('id: '.length))
}
