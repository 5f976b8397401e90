// A job's server-sent events for a reader of the API. The stream survives resets of the job's object.
import type { Env } from './env.ts'
import { ApiError } from './errors.ts'
import { objectOf } from './objects.ts'

const END_OF_EVENT = '\n\n'
const TERMINAL = /^event: (succeeded|failed|canceled)$/m
/** Consecutive streams that broke at once, after which this one ends with an error. Resets may come one after another. */
const MOST_FAILURES = 10
/** A stream that lasted longer than this did not break at once. */
const LASTING_MS = 100
const PAUSE_MS = 50

/** How often the reader's credential is checked again. */
const CHECK_MS = 30_000

type Source = ReadableStreamDefaultReader<Uint8Array>

/**
 * The events of a job after entry `after`, until its end. When the job's object is reset, the stream continues behind the last whole event,
 * so that the reader gets each event once. It ends early once `isAllowed`, asked every half minute, answers false. Errors: rate_limited when
 * the job has too many readers.
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
    if (failures > MOST_FAILURES) throw cause
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS * failures))
    openedAt = Date.now()
    ;[source, rest, decoder] = [await open(last), '', new TextDecoder()]
    return ''
  }

  async function read(): Promise<string | null> {
    try {
      const { value, done } = await source.read()
      // A reset may also close the stream as if it were complete.
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
        last = lastId(events) ?? last
        isOver = TERMINAL.test(events)
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
