// The correction after reused steps, with velocities that depend on the noise level only.
import { expect, test } from 'vitest'
import { findReusedSteps } from '../../../gpu-fn/contract.ts'
import type { Manifest } from '../../../gpu-fn/manifest.ts'
import { createScheduler } from '../../../gpu-fn/pipeline/schedulers/schedulers.ts'
import { VelocityCache } from '../../../gpu-fn/pipeline/velocity-cache.ts'

const config: Manifest['scheduler'] = { name: 'FlowMatchEulerDiscreteScheduler', shift: 3, num_train_timesteps: 1000 }
type Sampler = 'euler' | 'heun' | 'dpmpp_2m'

/** The final sample [2], and the number of computed runs. */
async function sampleWith(
  sampler: Sampler,
  velocityAt: (level: number) => number[],
  { cache, corrects = true }: { cache: boolean; corrects?: boolean },
) {
  const request = { steps: 28, guidance_scale: 7, sampler, ...(cache && { cache: 'fast' as const }) }
  const scheduler = createScheduler(request, config, async () => new Float32Array(2))
  const reused = findReusedSteps(request)
  const velocities = new VelocityCache(scheduler)
  const sample = new Float32Array([1, -1])
  let computed = 0
  for (const [run, step] of scheduler.steps.entries()) {
    let velocity: Float32Array
    if (reused.has(step)) velocity = velocities.reuse(run)
    else {
      velocity = new Float32Array(velocityAt(scheduler.timesteps[run]! / 1000))
      velocities.store(run, velocity, corrects ? sample : new Float32Array(2))
      computed++
    }
    await scheduler.step(velocity, run, sample)
  }
  return { sample: [...sample], computed }
}

const computeDistance = (a: readonly number[], b: readonly number[]) =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i]!)))

test.for([
  ['euler', 28, 17],
  ['heun', 55, 33],
] as const)(
  '%s: a velocity linear in the noise level results in the same sample with %d and with %d runs',
  async ([sampler, all, some]) => {
    const linear = (level: number) => [2 * level - 1, 3 - level]
    const plain = await sampleWith(sampler, linear, { cache: false })
    const cached = await sampleWith(sampler, linear, { cache: true })
    expect([plain.computed, cached.computed]).toEqual([all, some])
    expect(computeDistance(plain.sample, cached.sample)).toBeLessThan(1e-5)
  },
)

// The sampler dpmpp_2m also uses the previous step's image, which is not corrected.
test.for([
  ['euler', 0.2],
  ['heun', 0.2],
  ['dpmpp_2m', 0.4],
] as const)('%s: the correction leaves at most %d of the error of reuse alone', async ([sampler, share]) => {
  const curved = (level: number) => [level ** 2, Math.exp(-level)]
  const plain = await sampleWith(sampler, curved, { cache: false })
  const corrected = await sampleWith(sampler, curved, { cache: true })
  const reused = await sampleWith(sampler, curved, { cache: true, corrects: false })
  expect(computeDistance(plain.sample, corrected.sample)).toBeLessThan(
    share * computeDistance(plain.sample, reused.sample),
  )
})

test('a first run cannot reuse', () => {
  const scheduler = createScheduler({ steps: 28 }, config, async () => new Float32Array(2))
  expect(() => new VelocityCache(scheduler).reuse(0)).toThrow('run 0 has no velocity to reuse')
})

// With skip-layer guidance, the work of a step is the same before and after the change.
test.for([
  [{ guidance_scale: 4 }],
  [{ guidance_scale: 4, skip_layer_guidance: { scale: 2, start: 0.49, stop: 1 } }],
] as const)('%j: the steps next to the end of a ControlNet are computed', ([sampling]) => {
  const request = { ...sampling, steps: 40, cache: 'fast' as const }
  const findReusedBefore = (stop: number) =>
    findReusedSteps({ ...request, controls: [{ id: 'edges', scale: 1, stop }] })
  expect(findReusedBefore(1)).toEqual(findReusedSteps(request))
  const reused = findReusedBefore(0.5)
  expect([19, 20].filter((step) => reused.has(step))).toEqual([])
  expect(reused.size).toBeGreaterThanOrEqual(findReusedSteps(request).size - 2)
})
