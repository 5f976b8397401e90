// Configuration of the worker's OpenTelemetry span exporter.
import * as z from 'zod'
import { text } from './values.ts'

/** Comma-separated, percent-encoded `name=value` pairs, as in OpenTelemetry's variable of the same name. */
const parseHeaders = (given: string): Record<string, string> =>
  Object.fromEntries(new URLSearchParams(given.replaceAll('+', '%2B').replaceAll(/, ?/g, '&')))

function parseEndpoint(given: string): { url: string | null } | null {
  if (given === '') return { url: null }
  return /^https?:$/.test(new URL(given).protocol) ? { url: `${given.replace(/\/$/, '')}/v1/traces` } : null
}

/** OTLP/HTTP endpoint of the span exporter; null disables it. The headers are secret, such as an API key. */
export const traces = z
  .object({
    OTEL_EXPORTER_OTLP_ENDPOINT: text('empty, or an http or https address', parseEndpoint).prefault(''),
    OTEL_EXPORTER_OTLP_HEADERS: z.string().prefault(''),
  })
  .transform(({ OTEL_EXPORTER_OTLP_ENDPOINT: { url }, OTEL_EXPORTER_OTLP_HEADERS: headers }) =>
    url === null ? null : { url, headers: parseHeaders(headers) },
  )
