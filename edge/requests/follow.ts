// A job's server-sent events for a reader of the API. The stream survives resets of the job's object.
import { ApiError } from '../http/errors.ts'
import { objectOf } from '../platform/durable-objects.ts'

const END_OF_EVENT = '\n\n'
const TERMINAL = /^event: (succeeded|failed|canceled)$/m
/** Maximum number of consecutive short-lived streams, as in a series of resets. After them, the response ends with an error. */
const MAX_FAILURES = 10
/** The minimum lifetime of a stream that restarts this count. */
const LASTING_MS = 100
const PAUSE_MS = 50

/** The interval of checks of the reader's credential. */
const CHECK_MS = 30_000

type Source = ReadableStreamDefaultReader<Uint8Array>

/**
 * Streams the events of a job after entry `after` until its end. After a reset of the job's object, the stream continues after the last
 * complete event, so that the reader gets each event once. Ends early once `isAllowed`, called every 30 seconds, returns false. Errors:
 * rate_limited when the job has too many readers.
 */
export async function followJob(
  env: Pick<Env, 'JOB'>,
  job: string,
  after: number,
  isAllowed: () => Promise<boolean>,
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
  let isOver = false
  let checkedAt = Date.now()
  let openedAt = Date.now()
  const encoder = new TextEncoder()

  async function reopen(cause: unknown): Promise<string> {
    failures = Date.now() - openedAt > LASTING_MS ? 0 : failures + 1
    if (failures > MAX_FAILURES) throw cause
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS * failures))
    openedAt = Date.now()
    ;[source, rest, decoder] = [await open(last), '', new TextDecoder()]
    return ''
  }

  async function read(): Promise<string | null> {
    try {
      const { value, done } = await source.read()
      // A reset may close the stream without an error.
      if (done) return isOver ? null : reopen(new Error('the event stream ended before its job'))
      return decoder.decode(value, { stream: true })
    } catch (cause) {
      return reopen(cause)
    }
  }

  async function mayContinue(): Promise<boolean> {
    if (Date.now() - checkedAt < CHECK_MS) return true
    checkedAt = Date.now()
    return isAllowed()
  }

  return new ReadableStream({
    async pull(controller) {
      for (;;) {
        const text = await read()
        if (text === null || !(await mayContinue())) return controller.close()
        rest += text
        const end = rest.lastIndexOf(END_OF_EVENT)
        if (end < 0) continue
        const events = rest.slice(0, end + END_OF_EVENT.length)
        rest = rest.slice(events.length)
        last = findLastId(events) ?? last
        isOver = TERMINAL.test(events)
        return controller.enqueue(encoder.encode(events))
      }
    },
    async cancel(reason) {
      await source.cancel(reason).catch(() => {})
    },
  })
}

/** The id of the last event in a text of complete events; null if no event has an id. */
function findLastId(events: string): number | null {
  const line = events.split('\n').findLast((each) => each.startsWith('id: '))
  return line === undefined ? null : Number(line.slice('id: '.length))
}
