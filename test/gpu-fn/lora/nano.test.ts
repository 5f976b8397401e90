// nano in FP8 with an adapter against float32, which equals PEFT: parity.test.ts.
import path from 'node:path'
import { expect, test } from 'vitest'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { computeRelativeError } from '../../../infra/bench/statistics.ts'
import { prepareBuiltInPackage } from '../../../infra/local/models/built-in-model.ts'
import { withPipeline } from '../../../infra/local/models/render.ts'
import { compileTestLora, writeRandomLora } from '../../support/lora.ts'
import { computeNetworkOutputs } from '../../support/lora-outputs.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
async function writeLora(): Promise<string> {
  const { manifest } = await openPackage(await prepareBuiltInPackage('nano', 'fp8'))
  const file = path.join(scratch.directory, 'style.safetensors')
  await writeRandomLora(file, manifest.position.width)
  return file
}

/** The velocity without and with the adapter, and the difference. */
async function velocitiesOf(tier: 'fp8' | 'fp32', file: string) {
  const directory = await prepareBuiltInPackage('nano', tier)
  const lora = await compileTestLora(file, directory)
  return withPipeline(directory, async (pipeline) => {
    const base = (await computeNetworkOutputs(pipeline)).velocity!.data
    await pipeline.adapt([{ lora, scale: 1 }])
    const adapted = (await computeNetworkOutputs(pipeline)).velocity!.data
    return { base, adapted, change: adapted.map((value, i) => value - base[i]!) }
  })
}

const computeDotProduct = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0)

test('an adapter changes a step of nano in FP8 as much as in float32', async () => {
  const file = await writeLora()
  const [fp8, fp32] = [await velocitiesOf('fp8', file), await velocitiesOf('fp32', file)]
  const gain = computeDotProduct(fp8.change, fp32.change) / computeDotProduct(fp32.change, fp32.change)
  expect(gain).toBeGreaterThan(0.9)
  expect(gain).toBeLessThan(1.1)
  // FP8 without adapters causes half of this error.
  expect(computeRelativeError(fp8.adapted, fp32.adapted)).toBeLessThan(0.1)
  expect(computeRelativeError(fp32.adapted, fp32.base)).toBeGreaterThan(0.05)
})
