// Where the worker sends OpenTelemetry spans.
import * as z from 'zod'
import { text } from './values.ts'

/** A pair, each part percent-encoded. Throws for a malformed one. */
function parsePair(pair: string): [name: string, value: string] {
  const [, name, value] = /^([^=]+)=(.*)$/.exec(pair)!
  return [decodeURIComponent(name!.trim()), decodeURIComponent(value!.trim())]
}

/** The headers of OpenTelemetry's own variable. Throws for malformed pairs, and for names and values that no header may have. */
function parseHeaders(given: string): Record<string, string> {
  const pairs = given.split(',').filter((pair) => pair.trim() !== '')
  return Object.fromEntries(new Headers(pairs.map(parsePair)))
}

function parseReceiver(given: string): { url: string | null } | null {
  if (given === '') return { url: null }
  return /^https?:$/.test(new URL(given).protocol) ? { url: `${given.replace(/\/$/, '')}/v1/traces` } : null
}

/** The receiver of spans, by OTLP over HTTP; null sends none. The headers are a secret, such as the receiver's key. */
export const traces = z
  .object({
    OTEL_EXPORTER_OTLP_ENDPOINT: text('empty, or an http or https address', parseReceiver).prefault(''),
    OTEL_EXPORTER_OTLP_HEADERS: text(
      'headers as name=value pairs, separated by commas and percent-encoded',
      parseHeaders,
    ).prefault(''),
  })
  .transform(({ OTEL_EXPORTER_OTLP_ENDPOINT: { url }, OTEL_EXPORTER_OTLP_HEADERS: headers }) =>
    url === null ? null : { url, headers },
  )
