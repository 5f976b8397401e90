// The GPU function as a process of its own, for `programOf`: the real contract server over an engine without a model.
import { createPublicKey, type JsonWebKey } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { getRequestListener } from '@hono/node-server'
import { pino } from 'pino'
import { createJobs, type Lifecycle } from '../../gpu-fn/jobs.ts'
import { createApp } from '../../gpu-fn/server.ts'
import { createModellessEngine } from './modelless-engine.ts'

export type GpuSettings = { port: number; edgePublicKey: string; heartbeatMs: number; stepMs: number }

const { port, edgePublicKey, heartbeatMs, stepMs } = JSON.parse(process.argv[2]!) as GpuSettings
const log = pino({ level: 'silent' })
const engine = createModellessEngine(stepMs)
const lifecycle: Lifecycle = { status: 'loading' }
const limits = { queue: 16, retainSeconds: 60, retainBytes: 1 << 26, unreadSeconds: 10 }
const jobs = createJobs({ engine, lifecycle, log, onBroken: () => process.exit(1), ...limits })
const key = createPublicKey({ key: JSON.parse(edgePublicKey) as JsonWebKey, format: 'jwk' })
const app = createApp({ jobs, engine, lifecycle, log, edgePublicKeys: [key], heartbeatMs })
const server = createServer(getRequestListener(app.fetch)).listen(port, '127.0.0.1')
await once(server, 'listening')
process.send!('ready')
// It answers 503 for a while, as one that loads its models.
setTimeout(() => {
  lifecycle.status = 'ready'
}, 300)
