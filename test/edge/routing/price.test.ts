import fc from 'fast-check'
import { describe, test } from 'vitest'
import { convertToMicrodollars, MICRODOLLARS } from '../../../edge/platform/units.ts'
import { countMegapixelSteps, price } from '../../../edge/routing/price.ts'
import { newCaller } from '../support/client.ts'
import { call } from '../support/operator.ts'

describe('the micro-dollars within an amount of dollars', () => {
  test.for([
    [0.0000019, 1],
    [0.0000009, 0],
    [0.29, 290_000],
    [0.000003, 3],
    [1.0000005, 1_000_000],
    [1000, 1_000_000_000],
    [0, 0],
  ] as const)('%d contain %d', ([amount, whole], { expect }) => {
    expect(convertToMicrodollars(amount)).toBe(whole)
  })

  test('are the largest number that does not exceed it; an exact amount is unchanged', ({ expect }) => {
    const amount = fc.double({ min: 0, max: 1000, noNaN: true })
    fc.assert(
      fc.property(amount, (amount) => {
        const whole = convertToMicrodollars(amount)
        expect(whole / MICRODOLLARS).toBeLessThanOrEqual(amount)
        expect((whole + 1) / MICRODOLLARS).toBeGreaterThan(amount)
      }),
    )
    fc.assert(
      fc.property(fc.nat(1000 * MICRODOLLARS), (whole) => {
        expect(convertToMicrodollars(whole / MICRODOLLARS)).toBe(whole)
      }),
    )
  })
})

test('a price never exceeds max_cost, and may equal it', async ({ expect }) => {
  const caller = await newCaller()
  const request = { prompt: 'a cat', route: 'turbo', size: '64x64', steps: 4 }
  const cost = price({ width: 64, height: 64, steps: 4, guidanceScale: 1, count: 1, tier: 'fp8' }) / MICRODOLLARS
  const quote = (max_cost: number) => call('POST', '/v1/quote', caller.headers, { ...request, max_cost })
  expect((await quote(cost)).status).toBe(200)
  const refused = { status: 422, body: { error: { code: 'max_cost_exceeded' } } }
  for (const below of [cost - 0.0000004, cost - 0.0000001]) expect(await quote(below)).toMatchObject(refused)
})

test('several devices divide the time of guidance, but not the price', ({ expect }) => {
  const work = { width: 1000, height: 1000, steps: 10, guidanceScale: 4, count: 2 }
  expect([1, 2, 3].map((devices) => countMegapixelSteps(work, devices))).toEqual([40, 20, 20])
  const skipping = { ...work, skip_layer_guidance: { scale: 2, start: 0, stop: 1 } }
  expect([1, 2, 3].map((devices) => countMegapixelSteps(skipping, devices))).toEqual([58, 38, 20])
  expect(countMegapixelSteps({ ...work, guidanceScale: 1 }, 2)).toBe(20)
})
