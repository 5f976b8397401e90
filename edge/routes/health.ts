import { Hono } from 'hono'
import type { EdgeEnv } from '../http/context.ts'

/** Liveness of the worker. It does not contact a GPU, so that a probe never starts one. */
export const health = new Hono<EdgeEnv>().get('/', (c) => c.json({ status: 'ok' }))
