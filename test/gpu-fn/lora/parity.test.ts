import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type OpenPipeline, openPipeline } from '../../../gpu-fn/engine/package/open-pipeline.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { computeRelativeError, type FloatTensor } from '../../support/checkpoints/tensors.ts'
import { compileTestLora } from '../../support/lora.ts'
import { computeNetworkOutputs, LORAS, readLoraGoldens } from '../../support/lora-outputs.ts'

/** Relative, and so stricter than absolute: the outputs have magnitudes of about 1. */
const TOLERANCE = 1e-5

let base: string
let pipeline: OpenPipeline
let goldens: Map<string, FloatTensor>
let untouched: Record<string, FloatTensor>
beforeAll(async () => {
  base = await compileTiny({ variant: 'tiny-medium', tier: 'fp32' })
  pipeline = await openPipeline(await openPackage(base))
  goldens = await readLoraGoldens()
  untouched = await computeNetworkOutputs(pipeline)
})
afterAll(() => pipeline.release())

const expectGolden = (outputs: Record<string, FloatTensor>, name: string) => {
  const expected = [...goldens].filter(([key]) => key.startsWith(`${name}.`))
  expect(expected.length).toBeGreaterThan(0)
  for (const [key, tensor] of expected) {
    const output = key.slice(name.length + 1)
    expect(computeRelativeError(outputs[output]!, tensor), key).toBeLessThan(TOLERANCE)
    // `everything` is without T5.
    if (output !== 't5.hidden' || name === 'encoders')
      expect(computeRelativeError(untouched[output]!, tensor), `${key} without the adapter`).toBeGreaterThan(
        100 * TOLERANCE,
      )
  }
}

const compileGoldenLora = (name: string) =>
  compileTestLora(path.join(LORAS, `${name}.safetensors`), base, name.replaceAll('.', '-'))

describe('a LoRA in float32 equals PEFT', () => {
  test.each([
    ['attention', 'ai-toolkit'],
    ['attention', 'simpletuner-comfyui'],
    ['attention', 'onetrainer'],
    ['attention', 'comfyui'],
    ['attention', 'original'],
    ['attention', 'kohya'],
    ['attention', 'kohya-split-qkv'],
    ['attention', 'diffusers-0.18'],
    ['everything', 'everything'],
    ['encoders', 'kohya-encoders'],
  ])('%s under the names of %s', async (name, file) => {
    await pipeline.adapt([{ lora: await compileGoldenLora(file), scale: 1 }])
    expectGolden(await computeNetworkOutputs(pipeline), name)
  })

  test('of two at strengths 0.7 and -0.4', async () => {
    const [first, second] = [await compileGoldenLora('everything'), await compileGoldenLora('kohya')]
    await pipeline.adapt([
      { lora: first, scale: 0.7 },
      { lora: second, scale: -0.4 },
    ])
    expectGolden(await computeNetworkOutputs(pipeline), 'two')
  })

  test('restores the outputs exactly when it is removed', async () => {
    await pipeline.adapt([{ lora: await compileGoldenLora('everything'), scale: 1 }])
    await computeNetworkOutputs(pipeline)
    await pipeline.adapt([])
    expect(await computeNetworkOutputs(pipeline)).toEqual(untouched)
  })
})

test("a directory in PEFT's format can set ranks, alphas and rank-stabilized scales per layer", async () => {
  const large = await compileTiny({ variant: 'tiny-large', tier: 'fp32' })
  const own = await openPipeline(await openPackage(large))
  try {
    await own.adapt([
      { lora: await compileTestLora(path.join(LORAS, 'peft/adapter_model.safetensors'), large), scale: 1 },
    ])
    const { velocity } = await computeNetworkOutputs(own)
    expect(computeRelativeError(velocity!, goldens.get('peft.velocity')!)).toBeLessThan(TOLERANCE)
  } finally {
    await own.release()
  }
})
