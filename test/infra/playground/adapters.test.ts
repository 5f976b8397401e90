// The adapters offered on a route by the playground's form.
import { expect, test } from 'vitest'
import { fitsRoutes } from '../../../edge/playground/state/adapters.ts'

const turbo = { route: 'turbo', tier: 'fp8-int4' }
const full = { route: 'full', tier: 'fp8' }
const ink = { id: 'ink', tiers: ['fp8'] }

test('an adapter is offered on a route only in a compatible tier', () => {
  const models = [{ octet: [turbo, full], octet_loras: [ink, { id: 'pen', tiers: ['fp8', 'fp8-int4'] }] }]
  const fitting = (routes: string[]) => ['ink', 'pen'].filter((id) => fitsRoutes(id, routes, models))
  expect(fitting(['full'])).toEqual(['ink', 'pen'])
  expect(fitting(['turbo'])).toEqual(['pen'])
  expect(fitting(['turbo', 'full'])).toEqual(['pen'])
  expect(fitsRoutes('absent', ['full'], models)).toBe(false)
})

test('the compatible tiers of one model do not apply to another', () => {
  const models = [
    { octet: [{ ...turbo, tier: 'fp8' }], octet_loras: [] },
    { octet: [full], octet_loras: [ink] },
  ]
  expect(fitsRoutes('ink', ['turbo'], models)).toBe(false)
  expect(fitsRoutes('ink', ['full'], models)).toBe(true)
})
