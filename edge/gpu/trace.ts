// OpenTelemetry: the trace of a job, and the worker's own spans, sent by OTLP over HTTP. W3C Trace Context.
import { sha256 } from '../auth/keys.ts'
import { configOf } from '../config.ts'
import { log } from '../platform/log.ts'

const TRACE_DIGITS = 32
const SPAN_DIGITS = 16
const SEND_MS = 5_000
/** OTLP's SPAN_KIND_INTERNAL and STATUS_CODE_ERROR. */
const INTERNAL = 1
const ERROR = 2

/** All requests and spans of a job are in one trace below one span. Both IDs are derived from the job's. */
async function traceOf(job: string): Promise<{ traceId: string; spanId: string }> {
  const [trace, span] = await Promise.all([sha256(`trace ${job}`), sha256(`span ${job}`)])
  return { traceId: trace.slice(0, TRACE_DIGITS), spanId: span.slice(0, SPAN_DIGITS) }
}

export async function traceparentOf(job: string): Promise<string> {
  const { traceId, spanId } = await traceOf(job)
  return `00-${traceId}-${spanId}-01`
}

type Attributes = Record<string, string | number>
type Span = { name: string; start: number; end: number; attributes: Attributes; failed: boolean }

/** Runs `action` as a span of the job, which is sent if a receiver is configured. A failure to send is logged only. */
export async function traced<T>(
  env: Env,
  job: string,
  { name, attributes = {} }: { name: string; attributes?: Attributes },
  action: () => Promise<T>,
): Promise<T> {
  if (!configOf(env).traces) return action()
  const start = Date.now()
  const send = (failed: boolean) => void sendSpan(env, job, { name, start, end: Date.now(), attributes, failed })
  try {
    const result = await action()
    send(false)
    return result
  } catch (error) {
    send(true)
    throw error
  }
}

async function sendSpan(env: Env, job: string, { name, start, end, attributes, failed }: Span): Promise<void> {
  const { url, headers } = configOf(env).traces!
  const { traceId, spanId: parentSpanId } = await traceOf(job)
  const span = {
    ...{ traceId, parentSpanId, spanId: crypto.randomUUID().replaceAll('-', '').slice(0, SPAN_DIGITS) },
    ...{ name, kind: INTERNAL, startTimeUnixNano: `${start}000000`, endTimeUnixNano: `${end}000000` },
    attributes: toOtlp({ 'octet.job': job, ...attributes }),
    ...(failed && { status: { code: ERROR } }),
  }
  const resource = { attributes: toOtlp({ 'service.name': 'octet-worker' }) }
  const body = JSON.stringify({
    resourceSpans: [{ resource, scopeSpans: [{ scope: { name: 'octet' }, spans: [span] }] }],
  })
  const init = { method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body }
  try {
    const response = await fetch(url, { ...init, redirect: 'manual', signal: AbortSignal.timeout(SEND_MS) })
    await response.body?.cancel()
    if (!response.ok) throw new Error(`the receiver of spans replied ${response.status}`)
  } catch (cause) {
    log('warn', 'a span was not sent', { job, cause })
  }
}

/** Attributes in OTLP's JSON, where integers are text. */
const toOtlp = (attributes: Attributes) =>
  Object.entries(attributes).map(([key, value]) => ({
    key,
    value: typeof value === 'string' ? { stringValue: value } : { intValue: String(value) },
  }))
