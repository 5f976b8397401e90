// OpenTelemetry: W3C trace context of a job, and an OTLP/HTTP exporter for the worker's spans.
import { sha256 } from '../auth/keys.ts'
import { configOf } from '../config.ts'
import { log } from '../platform/log.ts'

const TRACE_DIGITS = 32
const SPAN_DIGITS = 16
const SEND_MS = 5_000

/** Trace ID and parent span ID of all requests and spans of a job, derived from its ID. */
async function traceOf(job: string): Promise<{ traceId: string; spanId: string }> {
  const [trace, span] = await Promise.all([sha256(`trace ${job}`), sha256(`span ${job}`)])
  return { traceId: trace.slice(0, TRACE_DIGITS), spanId: span.slice(0, SPAN_DIGITS) }
}

export async function traceparentOf(job: string): Promise<string> {
  const { traceId, spanId } = await traceOf(job)
  return `00-${traceId}-${spanId}-01`
}

/** Runs `action`, and exports its duration as a span of the job if an endpoint is configured. Export errors are only logged. */
export function withSpan<T>(env: Env, job: string, name: string, action: () => Promise<T>): Promise<T> {
  if (!configOf(env).traces) return action()
  const start = Date.now()
  return action().finally(() => void sendSpan(env, job, name, start))
}

/** Exports a span from `start`, in milliseconds since the epoch, to the present. */
async function sendSpan(env: Env, job: string, name: string, start: number): Promise<void> {
  const { url, headers } = configOf(env).traces!
  const end = Date.now()
  const { traceId, spanId: parentSpanId } = await traceOf(job)
  const span = {
    ...{ traceId, parentSpanId, spanId: crypto.randomUUID().replaceAll('-', '').slice(0, SPAN_DIGITS) },
    ...{ name, startTimeUnixNano: `${start}000000`, endTimeUnixNano: `${end}000000` },
    attributes: createAttribute('octet.job', job),
  }
  const resource = { attributes: createAttribute('service.name', 'octet-worker') }
  const body = JSON.stringify({
    resourceSpans: [{ resource, scopeSpans: [{ scope: { name: 'octet' }, spans: [span] }] }],
  })
  // Another host does not get the headers.
  const init = { method: 'POST', redirect: 'manual', headers: { ...headers, 'content-type': 'application/json' }, body }
  try {
    const { ok, status, body: reply } = await fetch(url, { ...init, signal: AbortSignal.timeout(SEND_MS) })
    await reply?.cancel()
    if (!ok) throw new Error(`status ${status}`)
  } catch (cause) {
    log('warn', 'span export failed', { job, cause })
  }
}

const createAttribute = (key: string, stringValue: string) => [{ key, value: { stringValue } }]
