import { Hono } from 'hono'
import type { EdgeEnv } from '../env.ts'

/** Whether the worker runs. It asks no GPU, so that a probe never wakes one. */
export const health = new Hono<EdgeEnv>().get('/', (c) => c.json({ status: 'ok' }))
