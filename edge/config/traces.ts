// Where the worker sends OpenTelemetry spans.
import * as z from 'zod'
import { text } from './values.ts'

/** `name=value` pairs separated by commas, with percent-encoding, as in OpenTelemetry's own variable. */
const parseHeaders = (given: string): Record<string, string> =>
  Object.fromEntries(new URLSearchParams(given.replaceAll('+', '%2B').replaceAll(/, ?/g, '&')))

function parseReceiver(given: string): { url: string | null } | null {
  if (given === '') return { url: null }
  return /^https?:$/.test(new URL(given).protocol) ? { url: `${given.replace(/\/$/, '')}/v1/traces` } : null
}

/** The receiver of spans, by OTLP over HTTP; null sends none. The headers are a secret, such as the receiver's key. */
export const traces = z
  .object({
    OTEL_EXPORTER_OTLP_ENDPOINT: text('empty, or an http or https address', parseReceiver).prefault(''),
    OTEL_EXPORTER_OTLP_HEADERS: z.string().prefault(''),
  })
  .transform(({ OTEL_EXPORTER_OTLP_ENDPOINT: { url }, OTEL_EXPORTER_OTLP_HEADERS: headers }) =>
    url === null ? null : { url, headers: parseHeaders(headers) },
  )
