// The real server on a real socket over an engine of the test's choice.
import { getRequestListener } from '@hono/node-server'
import { pino } from 'pino'
import type { Engine } from '../../../gpu-fn/engine/engine.ts'
import { Jobs, type Lifecycle } from '../../../gpu-fn/server/jobs.ts'
import type { Metrics } from '../../../gpu-fn/server/observability/metrics.ts'
import { type Observer, observeWith } from '../../../gpu-fn/server/observer.ts'
import { createApp } from '../../../gpu-fn/server/server.ts'
import { serveLocally } from '../../../infra/command/local-server.ts'
import { edgeKeys, oldEdgeKeys } from './client.ts'

export type ServerSettings = Partial<{
  queue: number
  retainSeconds: number
  retainBytes: number
  unreadSeconds: number
  heartbeatMs: number
  metrics: Metrics
  metricsToken: string
  observers: Observer[]
}>

/** Starts a server that is ready. `logs` has its log lines, and `broken` one entry for each call of `onBroken`. */
export async function startServer(engine: Engine, settings: ServerSettings = {}) {
  const logs: Record<string, unknown>[] = []
  const log = pino({ level: 'info' }, { write: (line) => void logs.push(JSON.parse(line)) })
  const lifecycle: Lifecycle = { status: 'ready' }
  const broken: number[] = []
  const limits = { queue: 2, retainSeconds: 60, retainBytes: 1 << 28, unreadSeconds: 10, ...settings }
  const { metrics, metricsToken = null, observers = [] } = settings
  const observer = observeWith([...observers, ...(metrics ? [metrics] : [])])
  const jobs = new Jobs({ engine, lifecycle, log, onBroken: () => broken.push(1), observer, ...limits })
  metrics?.watch(jobs, lifecycle)
  const served = metrics && { text: metrics.text, token: metricsToken }
  const heartbeatMs = settings.heartbeatMs ?? 5_000
  const edgePublicKeys = [edgeKeys.publicKey, oldEdgeKeys.publicKey]
  const app = createApp({
    ...{ jobs, engine, lifecycle, log, edgePublicKeys, heartbeatMs, observer },
    ...(served && { metrics: served }),
  })
  const { url, port, stop } = await serveLocally(getRequestListener(app.fetch))
  return { url, port, logs, broken, lifecycle, jobs, [Symbol.asyncDispose]: stop }
}
