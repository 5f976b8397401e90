// The plan in use of a package, for jobs with images of several sizes.
import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { CurrentPlan, type PlannedMemory } from '../../../../gpu-fn/engine/package/current-plan.ts'
import type { Package } from '../../../../gpu-fn/manifest.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'

const LARGE = { width: 128, height: 128 }
const SMALL = { width: 64, height: 64 }

const start = async (apply: (next: PlannedMemory) => Promise<void>) => {
  const pkg: Package = await openPackage(await compileTiny({ tier: 'fp8' }))
  const plans = new CurrentPlan(pkg, {}, apply)
  await plans.start()
  return plans
}

test('jobs with smaller images keep the plan, without planning again', async () => {
  const plans = await start(async () => {})
  await plans.use(LARGE, null)
  const { plan } = plans
  for (const size of [SMALL, LARGE, SMALL]) {
    await plans.use(size, null)
    expect(plans.plan).toBe(plan)
  }
})

test('a plan whose application failed is applied for the next job', async () => {
  let [isFailing, applied] = [false, 0]
  const plans = await start(async () => {
    if (isFailing) throw new Error('no memory')
    applied++
  })
  isFailing = true
  const larger = { width: 1024, height: 1024 }
  await expect(plans.use(larger, null)).rejects.toThrow('no memory')
  isFailing = false
  await plans.use(larger, null)
  expect(applied).toBe(2)
  await plans.use(larger, null)
  expect(applied).toBe(2)
})

test('jobs that the first plan covers run during its application, and other plans follow it', async () => {
  const pkg: Package = await openPackage(await compileTiny({ tier: 'fp8' }))
  const first = Promise.withResolvers<void>()
  const applied: number[] = []
  const plans = new CurrentPlan(pkg, {}, async ({ size }) => {
    applied.push(size.width)
    if (applied.length === 1) await first.promise
  })
  const started = plans.start()
  await plans.use(SMALL)
  const larger = plans.use({ width: 1024, height: 1024 })
  await setImmediate()
  expect(applied).toHaveLength(1)
  first.resolve()
  await Promise.all([started, larger])
  expect(applied.at(-1)).toBe(1024)
})
