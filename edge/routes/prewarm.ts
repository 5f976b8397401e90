import { Hono } from 'hono'
import * as z from 'zod'
import { configOf } from '../config.ts'
import { prewarm, readGpuState } from '../gpu/health.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { formatValue, parseFields } from '../http/validation.ts'

export const query = z.strictObject({ model: z.string().optional().describe('the name of an offered model') })

function createUnknownModelError(name: string, offers: readonly { model: string }[]): ApiError {
  const names = [...new Set(offers.map(({ model }) => model))].join(', ')
  return new ApiError('not_offered', `model is ${formatValue(name)}; this deployment has ${names}.`, { param: 'model' })
}

/**
 * Prewarms the preferred endpoints of all offers within the operator's budget, for example when a page with a prompt field opens. `?model=`
 * selects the offers of one model, and opens it on their GPUs. The response lists the GPU state of each offer.
 */
export const prewarmRoute = new Hono<EdgeEnv>().post('/', async (c) => {
  const { model: name } = parseFields(query, query.shape, c.req.query())
  const { offers: all } = configOf(c.env).catalog
  const offers = name === undefined ? all : all.filter(({ model }) => model === name)
  if (offers.length === 0) throw createUnknownModelError(name!, all)
  const names = [...new Set(offers.map(({ endpoint }) => endpoint))]
  const [named] = name === undefined ? [] : offers
  await Promise.all(names.map((endpoint) => prewarm(c.env, endpoint, 'visit', named)))
  const states = new Map(await Promise.all(names.map(async (name) => [name, await readGpuState(c.env, name)] as const)))
  const data = offers.map(({ route, model, tier, endpoint }) => ({ route, model, tier, ...states.get(endpoint) }))
  return c.json({ object: 'list', data }, 202)
})
