import { Hono } from 'hono'
import type { EdgeEnv } from '../http/context.ts'
import { readJson } from '../http/validation.ts'
import { quoteRequest } from '../requests/quote.ts'

/** Quotes a request without running it. */
export const quote = new Hono<EdgeEnv>().post('/', async (c) => c.json(await quoteRequest(c, await readJson(c))))
