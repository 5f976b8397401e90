import { expect, test } from 'vitest'
import { guide } from '../../../../gpu-fn/pipeline/denoise.ts'
import type { SchedulerConfig } from '../../../../gpu-fn/pipeline/schedulers/scheduler.ts'
import { createScheduler } from '../../../../gpu-fn/pipeline/schedulers/schedulers.ts'
import golden from '../../../golden/sampler.json' with { type: 'json' }

const SD35 = { shift: 3, num_train_timesteps: 1000 }
const refuseToDraw = () => Promise.reject(new Error('Euler draws no noise'))
const createFlowMatchEuler = (steps: number, config: SchedulerConfig) =>
  createScheduler({ steps }, { name: 'FlowMatchEulerDiscreteScheduler', ...config }, refuseToDraw)

test('4 steps of SD3.5 Large Turbo', () => {
  const sigmas = [...createFlowMatchEuler(4, SD35).sigmas].map((sigma) => sigma.toFixed(4))
  expect(sigmas).toEqual(['1.0000', '0.8577', '0.6022', '0.0089', '0.0000'])
})

test('4 steps that end at a noise level of 0.3', () => {
  const sigmas = [...createFlowMatchEuler(4, { ...SD35, shift_terminal: 0.3 }).sigmas].map((sigma) => sigma.toFixed(4))
  expect(sigmas).toEqual(['1.0000', '0.8995', '0.7190', '0.3000', '0.0000'])
})

test('28 steps of SD3.5 Large start and end at the noise levels of the model card', () => {
  const { sigmas } = createFlowMatchEuler(28, SD35)
  expect(sigmas.length).toBe(29)
  expect([...sigmas.subarray(0, 3)].map((sigma) => sigma.toFixed(5))).toEqual(['1.00000', '0.98738', '0.97411'])
  expect([...sigmas.subarray(-3)].map((sigma) => sigma.toFixed(5))).toEqual(['0.11091', '0.00893', '0.00000'])
})

test.each([SD35, { ...SD35, shift_terminal: 0.3 }])('one step leads from pure noise to the image: %j', (config) => {
  expect([...createFlowMatchEuler(1, config).sigmas]).toEqual([1, 0])
})

test.each(golden.schedules)(
  '$steps steps, shift $shift of $num_train_timesteps, terminal $shift_terminal are bit-identical to diffusers’',
  (expected) => {
    const { sigmas, timesteps } = createFlowMatchEuler(expected.steps, expected)
    expect([...sigmas]).toEqual(expected.sigmas)
    expect([...timesteps]).toEqual(expected.timesteps)
  },
)

test('guided Euler steps equal diffusers’ within float32 rounding', async () => {
  const { steps, guidance_scale, start, velocities, end } = golden.walk
  const scheduler = createFlowMatchEuler(steps, SD35)
  const latent = Float32Array.from(start)
  for (const [i, { negative, positive }] of velocities.entries()) {
    const velocity = guide(Float32Array.from(negative), Float32Array.from(positive), guidance_scale)
    await scheduler.step(velocity, i, latent)
  }
  for (const [i, value] of end.entries()) expect(latent[i]).toBeCloseTo(value, 6)
})
