// The GPU function as a separate process, for `createProgram`: its server with an engine without a model.
import { createPublicKey, type JsonWebKey } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { getRequestListener } from '@hono/node-server'
import { pino } from 'pino'
import { Jobs, type Lifecycle } from '../../../gpu-fn/server/jobs.ts'
import { createApp } from '../../../gpu-fn/server/server.ts'
import { readSettings } from '../program.ts'
import { recordRuns } from './gpu-runs.ts'
import { createModellessEngine } from './modelless-engine.ts'

export type GpuSettings = {
  name: string
  /** Directory of its run log. */
  directory: string
  port: number
  edgePublicKey: string
  heartbeatMs: number
  stepMs: number
  /** Time after which a run without a reader is canceled. */
  unreadMs: number
}

const settings = readSettings<GpuSettings>()
const { name, directory, port, edgePublicKey, heartbeatMs, stepMs, unreadMs } = settings
const log = pino({ level: 'silent' })
const engine = createModellessEngine(stepMs, recordRuns(directory, name))
const lifecycle: Lifecycle = { status: 'loading' }
const limits = { queue: 16, retainSeconds: 60, retainBytes: 1 << 26, unreadSeconds: unreadMs / 1000 }
const jobs = new Jobs({ engine, lifecycle, log, onBroken: () => process.exit(1), ...limits })
const key = createPublicKey({ key: JSON.parse(edgePublicKey) as JsonWebKey, format: 'jwk' })
const app = createApp({ jobs, engine, lifecycle, log, edgePublicKeys: [key], heartbeatMs })
const server = createServer(getRequestListener(app.fetch)).listen(port, '127.0.0.1')
await once(server, 'listening')
process.send!('ready')
// Up to this time the GPU function responds with 503, as during the loading of models.
setTimeout(() => {
  lifecycle.status = 'ready'
}, 300)
