// Block-quantized weights: adaLN with `adalnBits: 8`, and T5 with `t5Bits: 4`.
import path from 'node:path'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { assertOptions } from '../../../gpu-fn/compile/compile.ts'
import type { T5Bits } from '../../../gpu-fn/compile/graph/model.ts'
import { updatesOf } from '../../../gpu-fn/engine/package/adapters.ts'
import { openPipeline } from '../../../gpu-fn/engine/package/open-pipeline.ts'
import { openSession } from '../../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../../gpu-fn/runtime/session.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { roundPackage } from '../../../infra/bench/precision/rounded-package.ts'
import { toFloat16, toIntegers } from '../../../infra/bench/precision/roundings.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { computeRelativeError, createPseudoRandom, type FloatTensor } from '../../support/checkpoints/tensors.ts'
import { compileTestLora } from '../../support/lora.ts'
import { LORAS } from '../../support/lora-outputs.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
const VARIANT = { variant: 'tiny-large' } as const

let reference = ''
beforeAll(async () => {
  reference = await compileTiny(VARIANT)
})

async function run(directory: string, network: string, inputs: Record<string, Tensor>, output: string) {
  const session = await openSession(path.join(directory, `${network}.onnx`), { target: 'cpu' })
  try {
    return (await session.run(inputs))[output] as FloatTensor
  } finally {
    await session.release()
  }
}

async function createConditioningInputs(): Promise<Record<string, Tensor>> {
  const { inputs } = (await openPackage(reference)).manifest.networks.conditioning!
  const lengths: Record<string, number> = { T: 3, B: 2, L: 5 }
  const shaped = inputs.map(({ name, shape }, seed) => {
    const dims = shape.map((dim) => (typeof dim === 'number' ? dim : lengths[dim]!))
    const tensor = createPseudoRandom(dims, seed)
    return [name, name === 'timesteps' ? { ...tensor, data: Float32Array.of(1000, 500, 20) } : tensor]
  })
  return Object.fromEntries(shaped)
}

describe('the modulation with adaLN in 8 bits', () => {
  test('equals that of float32 with dequantized weights', async () => {
    const inputs = await createConditioningInputs()
    const rounded = await roundPackage(
      reference,
      path.join(scratch.directory, 'rounded'),
      (_network, { name, shape }) =>
        shape.length < 2 ? null : name.includes('adaLN_modulation') ? toIntegers(8) : toFloat16,
    )
    const expected = await run(rounded, 'conditioning', inputs, 'modulation')
    const given = await run(
      await compileTiny({ ...VARIANT, tier: 'fp8', adalnBits: 8 }),
      'conditioning',
      inputs,
      'modulation',
    )
    expect(computeRelativeError(given, expected)).toBeLessThan(1e-5)
    const exact = await run(reference, 'conditioning', inputs, 'modulation')
    expect(computeRelativeError(given, exact)).toBeLessThan(5e-3)
  })

  // onnxruntime's CPU provider also supports this graph, with 16-bit products.
  test.each(['cuda', 'cuda-fp8'] as const)(
    'is equal in the graph of target %s, up to the unit of the gates',
    async (target) => {
      const inputs = await createConditioningInputs()
      const expected = await run(
        await compileTiny({ ...VARIANT, tier: 'fp8', adalnBits: 8 }),
        'conditioning',
        inputs,
        'modulation',
      )
      const given = await run(
        await compileTiny({ ...VARIANT, tier: 'fp8', target, adalnBits: 8 }),
        'conditioning',
        inputs,
        'modulation',
      )
      const { gates } = (await openPackage(reference)).manifest.blocks!
      const isGate = new Set(gates.flat())
      // After the last gate: shift and scale of the last block's text stream, and of the last layer.
      const rows = Math.max(...isGate) + 1 + 4
      const [total, width] = [expected.dims.at(-1)!, expected.dims.at(-1)! / rows]
      const unit = (i: number) => (isGate.has(Math.floor((i % total) / width)) ? 16 : 1)
      const data = given.data.map((value, i) => unit(i) * value)
      expect(computeRelativeError({ ...given, data }, expected)).toBeLessThan(3e-3)
    },
  )
})

test('an adapter has the same effect on the modulation with 8-bit adaLN as in float32', async () => {
  const inputs = await createConditioningInputs()
  const computeChange = async (tier: 'fp8' | 'fp32') => {
    const pkg = await openPackage(await compileTiny({ tier, ...(tier === 'fp8' && { adalnBits: 8 }) }))
    const lora = await compileTestLora(path.join(LORAS, 'everything.safetensors'), pkg.directory)
    const pipeline = await openPipeline(pkg)
    onTestFinished(() => pipeline.release())
    const computeModulation = async () => (await pipeline.conditioning.run(inputs)).modulation as FloatTensor
    const before = await computeModulation()
    await pipeline.adapt([{ lora, scale: 4 }])
    const after = await computeModulation()
    return { ...after, data: after.data.map((value, i) => value - before.data[i]!) }
  }
  expect(computeRelativeError(await computeChange('fp8'), await computeChange('fp32'))).toBeLessThan(0.1)
})

test.each(['fp16', 'fp32'] as const)('adaLN in 8 bits is refused for tier %s', (tier) => {
  expect(() => assertOptions({ tier, target: 'cpu', adalnBits: 8 })).toThrow('--adaln-bits')
})

describe('T5 in 4 bits', () => {
  const encode = async (t5Bits?: T5Bits) => {
    const directory = t5Bits ? await compileTiny({ ...VARIANT, tier: 'fp8', t5Bits }) : reference
    const ids = { data: BigInt64Array.from({ length: 24 }, (_, i) => BigInt(i % 7)), dims: [1, 24] }
    return run(directory, 't5', { input_ids: ids }, 'hidden')
  }

  test('has a bounded error relative to float32, above that of FP8', async () => {
    const exact = await encode()
    const errors = [computeRelativeError(await encode(8), exact), computeRelativeError(await encode(4), exact)]
    expect(errors[0]).toBeLessThan(0.06)
    expect(errors[1]).toBeGreaterThan(errors[0]!)
    expect(errors[1]).toBeLessThan(0.2)
  })

  test('refuses an adapter for T5 with a remedy', async () => {
    const directory = await compileTiny({ tier: 'fp8', t5Bits: 4 })
    const lora = await compileTestLora(path.join(LORAS, 'kohya-encoders.safetensors'), directory)
    const pkg = await openPackage(directory)
    expect(() => updatesOf(pkg, [{ lora, scale: 1 }])).toThrow(
      'updates 4-bit weights of t5 in custom, which is unsupported; the operator can compile the checkpoint with --t5-bits 8',
    )
  })

  test.each(['fp16', 'fp32', 'fp8-lite'] as const)('is refused for tier %s', (tier) => {
    expect(() => assertOptions({ tier, target: 'cpu', t5Bits: 4 })).toThrow('--t5-bits')
  })
})
