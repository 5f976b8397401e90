// A webhook receiver behind a mock of `fetch`: it records requests and replies as the test specifies.
import { vi } from 'vitest'

export const RECEIVER = 'https://hooks.octet-customer.com'

export type ReceivedRequest = {
  url: string
  headers: Record<string, string>
  body: string
  redirect: string
  signal: AbortSignal
}
export type Payload = {
  type: string
  timestamp: string
  data: { id: string; state: string; images: { url: string; sha256: string }[]; error: { code: string } | null }
}
type Behavior = (received: ReceivedRequest, call: number) => number | Response | Promise<number | Response>

/** Replies to requests to RECEIVER with a status or a response. Other requests are not affected. */
export function fakeReceiver(behavior: Behavior = () => 204): ReceivedRequest[] {
  const calls: ReceivedRequest[] = []
  const spy = vi.spyOn(globalThis, 'fetch')
  const elsewhere = spy.getMockImplementation()
  spy.mockImplementation(async (input, init) => {
    const request = new Request(input, init)
    if (!request.url.startsWith(RECEIVER)) {
      if (elsewhere) return elsewhere(input, init)
      throw new Error(`unexpected fetch of ${request.url}`)
    }
    const { url, redirect, signal } = request
    const received = { url, redirect, signal, headers: Object.fromEntries(request.headers), body: await request.text() }
    calls.push(received)
    const answer = await behavior(received, calls.length)
    return typeof answer === 'number' ? new Response(null, { status: answer }) : answer
  })
  return calls
}

export const payloadOf = ({ body }: Pick<ReceivedRequest, 'body'>) => JSON.parse(body) as Payload

/** Waits until a receiver has received this number of requests. */
export const waitForRequests = (calls: ReceivedRequest[], count: number) =>
  vi.waitFor(
    () => {
      if (calls.length < count) throw new Error(`${calls.length} of ${count} arrived`)
    },
    { timeout: 20_000, interval: 20 },
  )

/** A receiver that does not reply until `release`, even after the caller's timeout. */
export function createHangingReceiver(status = 204) {
  const { promise, resolve } = Promise.withResolvers<void>()
  return { answer: () => promise.then(() => status), release: resolve }
}
