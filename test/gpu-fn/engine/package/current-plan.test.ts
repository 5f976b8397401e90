// The plan in use of a package, for jobs with images of several sizes.
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
