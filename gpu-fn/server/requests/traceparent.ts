// W3C Trace Context, the header `traceparent`: version, trace, parent span and flags. https://www.w3.org/TR/trace-context/

export type TraceParent = { traceId: string; spanId: string; traceFlags: number }

/** Null for an absent or malformed header, which starts a new trace. */
export function parseTraceparent(header: string | undefined): TraceParent | null {
  const found = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})$/.exec(header ?? '')
  return found ? { traceId: found[1]!, spanId: found[2]!, traceFlags: Number.parseInt(found[3]!, 16) & 1 } : null
}
