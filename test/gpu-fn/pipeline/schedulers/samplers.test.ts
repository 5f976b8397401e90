import { expect, test } from 'vitest'
import { type JobRequest, SCHEDULES, stepsOfRuns } from '../../../../gpu-fn/contract.ts'
import { createNoise } from '../../../../gpu-fn/pipeline/noise.ts'
import { computeBetaQuantile } from '../../../../gpu-fn/pipeline/schedulers/beta-quantile.ts'
import { computeNoiseLevels } from '../../../../gpu-fn/pipeline/schedulers/noise-levels.ts'
import { createScheduler } from '../../../../gpu-fn/pipeline/schedulers/schedulers.ts'
import golden from '../../../golden/samplers.json' with { type: 'json' }

const SD35 = { shift: 3, num_train_timesteps: 1000 }
const refuseToDraw = () => Promise.reject(new Error('this sampler draws no noise'))

type Choice = Pick<JobRequest, 'sampler' | 'noise_schedule'>

function measureDistance(a: ArrayLike<number>, b: readonly number[]): number {
  expect(a.length).toBe(b.length)
  return b.reduce((max, value, i) => Math.max(max, Math.abs(a[i]! - value)), 0)
}

test('the noise levels of every schedule equal ComfyUI’s', () => {
  for (const { schedule, steps, shift, sigmas } of golden.schedules) {
    const levels = computeNoiseLevels({ steps, shift, noise_schedule: schedule } as Choice & { steps: number }, SD35)
    expect(measureDistance(levels, sigmas), `${schedule}, ${steps} steps, shift ${shift}`).toBeLessThan(3e-7)
  }
})

test('custom noise levels are shifted and stretched as diffusers does', () => {
  for (const { given, shift_terminal, sigmas } of golden.custom) {
    const config = { ...SD35, ...(shift_terminal !== undefined && { shift_terminal }) }
    expect(measureDistance(computeNoiseLevels({ steps: given.length, sigmas: given }, config), sigmas)).toBeLessThan(
      3e-7,
    )
  }
})

test('spacings of a checkpoint equal diffusers’', () => {
  for (const { spacing, steps, sigmas } of golden.spacings) {
    const config = { ...SD35, spacing: spacing as 'karras' | 'exponential' | 'beta' }
    expect(measureDistance(computeNoiseLevels({ steps }, config), sigmas), `${spacing}, ${steps} steps`).toBeLessThan(
      3e-7,
    )
  }
})

/** The network of the golden script. */
const velocityOf = (x: Float32Array, sigma: number) => x.map((value) => Math.sin(2 * value) + value * sigma)

async function walk(choice: Choice, steps: number): Promise<Float32Array> {
  const draw = createNoise(7, golden.start.length)
  await draw()
  const config = { name: 'FlowMatchEulerDiscreteScheduler' as const, ...SD35 }
  const scheduler = createScheduler({ ...choice, steps }, config, choice.sampler === 'lcm' ? draw : refuseToDraw)
  const sample = Float32Array.from(golden.start)
  for (const [run, timestep] of scheduler.timesteps.entries())
    await scheduler.step(velocityOf(sample, timestep / 1000), run, sample)
  return sample
}

test('every sampler has the result of k-diffusion or diffusers', async () => {
  for (const { by, steps, end, sampler, schedule } of golden.walks) {
    const choice = { sampler, noise_schedule: schedule }
    const what = `${sampler} over ${schedule} as in ${by}, ${steps} steps`
    expect(measureDistance(await walk(choice as Choice, steps), end), what).toBeLessThan(1e-5)
  }
})

test('Heun’s method is of second order', async () => {
  const exact = [...(await walk({ sampler: 'heun' }, 200))]
  const error = async (sampler: JobRequest['sampler']) => measureDistance(await walk({ sampler }, 20), exact)
  expect(await error('heun')).toBeLessThan((await error('euler')) / 2)
})

test('the number of billed runs is that of the sampler', () => {
  for (const sampler of ['euler', 'dpmpp_2m', 'heun', 'lcm'] as const) {
    for (const steps of [1, 2, 28, 200]) {
      const scheduler = createScheduler({ steps, sampler }, { name: 'FlowMatchLCMScheduler', ...SD35 }, refuseToDraw)
      expect(stepsOfRuns({ steps, sampler })).toEqual(scheduler.steps)
    }
  }
})

test('a package’s scheduler is the default sampler', async () => {
  const draws: number[] = []
  const draw = async () => {
    draws.push(1)
    return new Float32Array(4)
  }
  const scheduler = createScheduler({ steps: 2 }, { name: 'FlowMatchLCMScheduler', ...SD35 }, draw)
  const sample = new Float32Array(4)
  for (const run of scheduler.steps.keys()) await scheduler.step(new Float32Array(4), run, sample)
  expect(draws).toHaveLength(1)
})

test('up to 100 steps, no schedule has equal noise levels', () => {
  for (const schedule of SCHEDULES) {
    for (const steps of [1, 2, 3, 5, 8, 20, 28, 50, 77, 99, 100]) {
      const levels = [...computeNoiseLevels({ steps, noise_schedule: schedule }, SD35)]
      expect(levels).toHaveLength(steps + 1)
      expect(levels.every((level, i) => i === 0 || level < levels[i - 1]!)).toBe(true)
    }
  }
})

test('the quantiles of the beta distribution are symmetric and increasing', () => {
  expect(computeBetaQuantile(0.5)).toBe(0.5)
  expect([computeBetaQuantile(0), computeBetaQuantile(1)].map((value) => Math.abs(value))).toEqual([
    expect.closeTo(0),
    1,
  ])
  const values = Array.from({ length: 101 }, (_, i) => computeBetaQuantile(i / 100))
  expect(values).toEqual(values.toSorted((a, b) => a - b))
})
