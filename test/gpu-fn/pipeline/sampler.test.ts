import { expect, test } from 'vitest'
import { eulerStep, guide, sigmaSchedule, timestepsOf } from '../../../gpu-fn/pipeline/sampler.ts'
import golden from '../../golden/sampler.json' with { type: 'json' }

const SD35 = { shift: 3, num_train_timesteps: 1000 }

test('4 steps of SD3.5 Large Turbo', () => {
  const sigmas = [...sigmaSchedule(4, SD35)].map((sigma) => sigma.toFixed(4))
  expect(sigmas).toEqual(['1.0000', '0.8577', '0.6022', '0.0089', '0.0000'])
})

test('4 steps that end at a noise level of 0.3', () => {
  const sigmas = [...sigmaSchedule(4, { ...SD35, shift_terminal: 0.3 })].map((sigma) => sigma.toFixed(4))
  expect(sigmas).toEqual(['1.0000', '0.8995', '0.7190', '0.3000', '0.0000'])
})

test('28 steps of SD3.5 Large start and end where the model card does', () => {
  const sigmas = sigmaSchedule(28, SD35)
  expect(sigmas.length).toBe(29)
  expect([...sigmas.subarray(0, 3)].map((sigma) => sigma.toFixed(5))).toEqual(['1.00000', '0.98738', '0.97411'])
  expect([...sigmas.subarray(-3)].map((sigma) => sigma.toFixed(5))).toEqual(['0.11091', '0.00893', '0.00000'])
})

test.each([SD35, { ...SD35, shift_terminal: 0.3 }])('one step goes from pure noise to the picture: %j', (config) => {
  expect([...sigmaSchedule(1, config)]).toEqual([1, 0])
})

test.each(golden.schedules)(
  '$steps steps, shift $shift of $num_train_timesteps, terminal $shift_terminal are diffusers’ to the bit',
  (expected) => {
    const sigmas = sigmaSchedule(expected.steps, expected)
    expect([...sigmas]).toEqual(expected.sigmas)
    expect([...timestepsOf(sigmas, expected)]).toEqual(expected.timesteps)
  },
)

test('guided Euler steps are diffusers’ within float32 rounding', () => {
  const { steps, guidance_scale, start, velocities, end } = golden.walk
  const sigmas = sigmaSchedule(steps, SD35)
  const latent = Float32Array.from(start)
  for (const [i, { negative, positive }] of velocities.entries()) {
    const velocity = guide(Float32Array.from(negative), Float32Array.from(positive), guidance_scale)
    eulerStep(latent, velocity, sigmas[i]!, sigmas[i + 1]!)
  }
  for (const [i, value] of end.entries()) expect(latent[i]).toBeCloseTo(value, 6)
})

test('guidance scale 1 is the prompt alone, 0 the negative prompt alone', () => {
  const negative = Float32Array.of(0.5, -2, 8)
  const positive = Float32Array.of(1.5, 4, -8)
  expect([...guide(negative, positive.slice(), 0)]).toEqual([...negative])
  expect([...guide(negative, positive.slice(), 1)]).toEqual([...positive])
  expect([...guide(negative, positive.slice(), 3)]).toEqual([3.5, 16, -40])
})
