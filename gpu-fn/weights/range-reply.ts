// What is asked of a bucket, and what is wrong with what it answers.

/** A request that may be sent again: the connection broke, fell silent, or the server was busy. */
export class Interrupted extends Error {
  override name = 'Interrupted' as const
}

/** The server answered with something else than the range. */
export class RangeRefused extends Error {
  override name = 'RangeRefused' as const
  readonly status: number
  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

export type RangeRequest = {
  url: URL
  headers: Record<string, string>
  start: number
  length: number
  signal: AbortSignal
}

export const rangeOf = (start: number, length: number) => `bytes=${start}-${start + length - 1}`

/** What is wrong with a reply's head; undefined when the range follows, and nothing else. */
export function refusalOf(head: string, { start, length }: Pick<RangeRequest, 'start' | 'length'>): Error | undefined {
  const [first = '', ...lines] = head.split('\r\n')
  const status = Number(/^HTTP\/1\.1 (\d{3})\b/.exec(first)?.[1] ?? 0)
  if (status === 429 || status >= 500) return new Interrupted(`status ${status}`)
  if (status === 200) return new RangeRefused(status, 'the object came whole: the server does not serve ranges')
  if (status !== 206) return new RangeRefused(status, status ? `status ${status}` : 'the reply is not HTTP/1.1')
  const fields = new Map(
    lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
  )
  const range = fields.get('content-range') ?? ''
  if (!range.startsWith(`bytes ${start}-${start + length - 1}/`))
    return new RangeRefused(status, `"${range}" came in place of ${rangeOf(start, length)}`)
  if (fields.get('content-length') !== String(length) || fields.has('transfer-encoding'))
    return new RangeRefused(status, 'the reply does not state the length of the range')
  return undefined
}
