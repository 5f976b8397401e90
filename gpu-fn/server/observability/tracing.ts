// OpenTelemetry spans of jobs, sent by OTLP. Loaded only if an endpoint is configured.
import { context, type Span, SpanKind, SpanStatusCode, type Tracer, trace } from '@opentelemetry/api'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { BatchSpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace'
import { type Job, outcomeOf } from '../job.ts'
import type { Observer } from '../observer.ts'

export type Tracing = Observer & { stop(): Promise<void> }

/** `endpoint`: the base address of an OTLP receiver; spans are sent to `/v1/traces`. Unsent spans of a failed receiver are dropped. */
export function createTracing(endpoint: string): Tracing {
  const exporter = new OTLPTraceExporter({ url: `${endpoint.replace(/\/$/, '')}/v1/traces` })
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ 'service.name': 'octet-gpu' }),
    spanProcessors: [new BatchSpanProcessor({ exporter })],
  })
  const tracer = provider.getTracer('octet')
  /** Spans of unfinished jobs. */
  const spans = new Map<Job, Span>()
  const spanOf = (job: Job) => {
    const span = spans.get(job) ?? startJob(tracer, job)
    spans.set(job, span)
    return span
  }
  return {
    turn(job, { phase }, seconds) {
      if (phase === 'occupied') return
      const end = Date.now()
      const parent = trace.setSpan(context.active(), spanOf(job))
      tracer.startSpan(phase, { startTime: end - seconds * 1000 }, parent).end(end)
    },
    end(job) {
      const span = spanOf(job)
      spans.delete(job)
      const end = outcomeOf(job)!
      span.setAttribute('octet.outcome', end.type)
      if (end.type === 'failed') span.setStatus({ code: SpanStatusCode.ERROR, message: end.code })
      span.end()
    },
    stop: () => provider.shutdown(),
  }
}

function startJob(tracer: Tracer, { id, request, attempt, acceptedAt, trace: parent }: Job): Span {
  const { model, tier, width, height, steps, count } = request
  const attributes = {
    ...{ 'octet.job': id, 'octet.attempt': attempt, 'octet.model': model, 'octet.tier': tier },
    ...{ 'octet.width': width, 'octet.height': height, 'octet.steps': steps, 'octet.images': count },
  }
  const options = { kind: SpanKind.SERVER, attributes, startTime: Date.now() - (performance.now() - acceptedAt) }
  const remote = parent && trace.setSpanContext(context.active(), { ...parent, isRemote: true })
  return tracer.startSpan('job', options, remote ?? undefined)
}
