// Configuration of the worker's OpenTelemetry span exporter.
import * as z from 'zod'
import { createTextSchema } from './values.ts'

/** Parses a percent-encoded `name=value` pair. Throws if it is malformed. */
function parsePair(pair: string): [name: string, value: string] {
  const [, name, value] = /^([^=]+)=(.*)$/.exec(pair)!
  return [decodeURIComponent(name!.trim()), decodeURIComponent(value!.trim())]
}

/** Parses headers in the format of OpenTelemetry's variable of the same name. Throws for malformed pairs and invalid headers. */
function parseHeaders(given: string): Record<string, string> {
  const pairs = given.split(',').filter((pair) => pair.trim() !== '')
  return Object.fromEntries(new Headers(pairs.map(parsePair)))
}

function parseEndpoint(given: string): { url: string | null } | null {
  if (given === '') return { url: null }
  return /^https?:$/.test(new URL(given).protocol) ? { url: `${given.replace(/\/$/, '')}/v1/traces` } : null
}

/** OTLP/HTTP endpoint of the span exporter; null disables it. The headers are secret, such as an API key. */
export const traces = z
  .object({
    OTEL_EXPORTER_OTLP_ENDPOINT: createTextSchema('empty, or an http or https address', parseEndpoint).prefault(''),
    OTEL_EXPORTER_OTLP_HEADERS: createTextSchema(
      'headers as name=value pairs, separated by commas and percent-encoded',
      parseHeaders,
    ).prefault(''),
  })
  .transform(({ OTEL_EXPORTER_OTLP_ENDPOINT: { url }, OTEL_EXPORTER_OTLP_HEADERS: headers }) =>
    url === null ? null : { url, headers },
  )
