// Spans of the worker.
import { afterEach, test, vi } from 'vitest'
import { withSpan } from '../../../edge/gpu/trace.ts'
import { createEnvWith } from '../support/config.ts'

afterEach(() => vi.restoreAllMocks())

test('a redirect is not followed, so that no other host gets the headers, and the action has its result', async ({
  expect,
}) => {
  const logged = vi.spyOn(console, 'warn').mockImplementation(() => {})
  const sent: Request[] = []
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (url, init) => {
    sent.push(new Request(url as string, init as RequestInit))
    return new Response(null, { status: 307, headers: { location: 'https://other.example/' } })
  })
  const env = createEnvWith({
    OTEL_EXPORTER_OTLP_ENDPOINT: 'https://spans.example',
    OTEL_EXPORTER_OTLP_HEADERS: 'x-key=hunter2',
  })
  expect(await withSpan(env, 'job', 'store', async () => 7)).toBe(7)
  await vi.waitFor(() => expect(logged).toHaveBeenCalled())
  expect(sent.map(({ url, redirect }) => [url, redirect])).toEqual([['https://spans.example/v1/traces', 'manual']])
  expect(sent[0]!.headers.get('x-key')).toBe('hunter2')
  expect(logged.mock.calls.join()).toContain('status 307')
  expect(logged.mock.calls.join()).not.toContain('hunter2')
})
