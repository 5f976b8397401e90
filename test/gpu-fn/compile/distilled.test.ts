// Distilled weights by configuration: schedules that ship with a checkpoint, and options for files without one.
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { compile } from '../../../gpu-fn/compile/compile.ts'
import { countEvaluations, findReusedSteps, type Sampling } from '../../../gpu-fn/contract.ts'
import { SCHEDULER_NAMES, type SchedulerName } from '../../../gpu-fn/manifest.ts'
import { deriveScheduler } from '../../../gpu-fn/models/sd35/configurations.ts'
import { createScheduler, samplerOf } from '../../../gpu-fn/pipeline/schedulers/schedulers.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { writeTinyCheckpoint } from '../../../infra/checkpoints/tiny/checkpoint.ts'
import { offerOf } from '../../../infra/local/models/served-models.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'

let scratch: string
beforeAll(async () => {
  scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-distilled-'))
})
afterAll(() => fs.rm(scratch, { recursive: true }))

const PLAIN = { shift: 3, num_train_timesteps: 1000 }

test.each([
  [{ shift: 3 }, { name: 'FlowMatchEulerDiscreteScheduler', ...PLAIN }],
  [
    { shift: 3, stochastic_sampling: true },
    { name: 'FlowMatchLCMScheduler', ...PLAIN },
  ],
  [
    { shift: 3, _class_name: 'FlowMatchLCMScheduler', scale_factors: null },
    { name: 'FlowMatchLCMScheduler', ...PLAIN },
  ],
  [
    { shift: 3, _class_name: 'FlowMatchHeunDiscreteScheduler' },
    { name: 'FlowMatchHeunDiscreteScheduler', ...PLAIN },
  ],
  [
    { shift: 3, use_karras_sigmas: true, use_beta_sigmas: false, shift_terminal: 0.1 },
    { name: 'FlowMatchEulerDiscreteScheduler', ...PLAIN, shift_terminal: 0.1, spacing: 'karras' },
  ],
])('%j is %j', (config, scheduler) => {
  expect(deriveScheduler(config, 1)).toEqual(scheduler)
})

test.each([
  [{ use_karras_sigmas: true, use_beta_sigmas: true }, 'has the spacings karras and beta; allowed: one'],
  [{ scale_factors: [0.5] }, 'scale_factors is [0.5]; allowed: null'],
  [{ invert_sigmas: true }, 'invert_sigmas is true; allowed: false, null'],
  [{ use_beta_sigmas: 'yes' }, 'use_beta_sigmas is "yes"; allowed: true, false, null'],
  [{ _class_name: 'DDIMScheduler' }, '_class_name is "DDIMScheduler"; allowed: "FlowMatchEulerDiscreteScheduler"'],
])('%j is refused', (config, message) => {
  expect(() => deriveScheduler(config, 1)).toThrow(message)
})

test.each<[name: SchedulerName, options: { cache?: 'fast' }]>(
  SCHEDULER_NAMES.flatMap((name) => [
    [name, {}],
    [name, { cache: 'fast' }],
  ]),
)("the offer of a package with %s and %j counts the runs of the package's sampler", async (name, options) => {
  const { manifest } = await openPackage(await compileTiny({ tier: 'fp32' }))
  const scheduler = { ...PLAIN, name }
  const { sampler } = offerOf({ ...manifest, scheduler })
  const request: Sampling = { steps: 28, guidance_scale: 1, ...options }
  const { steps } = createScheduler(request, scheduler, async () => new Float32Array(1))
  const reused = findReusedSteps({ ...request, sampler: samplerOf(request, scheduler) })
  expect(countEvaluations({ ...request, sampler })).toBe(steps.filter((step) => !reused.has(step)).length)
})

test('the schedule and the defaults of a single file come from options', async () => {
  const single = { variant: 'tiny-medium', layout: 'single-file' } as const
  const checkpoint = [await writeTinyCheckpoint(path.join(scratch, 'single'), single)]
  const scheduler = path.join(scratch, 'scheduler_config.json')
  await fs.writeFile(scheduler, JSON.stringify({ _class_name: 'FlowMatchHeunDiscreteScheduler', shift: 5 }))
  const options = {
    checkpoint,
    tier: 'fp32',
    target: 'cpu',
    variant: 'custom',
    out: path.join(scratch, 'out'),
  } as const
  const { manifest } = await compile({ ...options, scheduler, steps: 6, guidanceScale: 1.5, name: 'quick' })
  expect(manifest).toMatchObject({
    model: 'quick',
    defaults: { steps: 6, guidance_scale: 1.5 },
    scheduler: { name: 'FlowMatchHeunDiscreteScheduler', shift: 5 },
  })
  expect(offerOf(manifest)).toMatchObject({ route: 'full', steps: 6, guidance_scale: 1.5, sampler: 'heun' })
  for (const [change, message] of [
    [
      { scheduler: path.join(scratch, 'none.json') },
      'does not exist; --scheduler is the path of a scheduler_config.json',
    ],
    [{ steps: 201 }, '--steps: 201 is given; a number from 1 to 200 is allowed'],
    [{ steps: 1.5 }, '--steps: 1.5 is not an integer'],
    [{ guidanceScale: Number.NaN }, '--guidance-scale: NaN is given; a number from 0 to 30 is allowed'],
  ] as const)
    await expect(compile({ ...options, ...change })).rejects.toThrow(message)
})
