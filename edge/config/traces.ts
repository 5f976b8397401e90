// Where the worker sends OpenTelemetry spans.
import * as z from 'zod'
import { text } from './values.ts'

const HEADER = /^[A-Za-z0-9-]+$/

/** `name=value` pairs separated by commas, as in OpenTelemetry's own variable. Null for invalid text. */
function parseHeaders(given: string): Record<string, string> | null {
  const pairs = given.split(',').map((pair) => pair.split(/=(.*)/s).map((part) => part.trim()))
  if (pairs.some(([name = '', value]) => !HEADER.test(name) || !value)) return null
  return Object.fromEntries(pairs)
}

function parseReceiver(given: string): { url: string | null } | null {
  if (given === '') return { url: null }
  const url = URL.parse(given)
  return url && /^https?:$/.test(url.protocol) ? { url: `${given.replace(/\/$/, '')}/v1/traces` } : null
}

/** The receiver of spans, by OTLP over HTTP; null sends none. The headers are a secret, such as the receiver's key. */
export const traces = z
  .object({
    OTEL_EXPORTER_OTLP_ENDPOINT: text(
      'empty, or the http or https address of an OTLP receiver',
      parseReceiver,
    ).prefault(''),
    OTEL_EXPORTER_OTLP_HEADERS: text('name=value pairs, separated by commas', parseHeaders).optional(),
  })
  .transform(({ OTEL_EXPORTER_OTLP_ENDPOINT: { url }, OTEL_EXPORTER_OTLP_HEADERS: headers = {} }) =>
    url === null ? null : { url, headers },
  )
