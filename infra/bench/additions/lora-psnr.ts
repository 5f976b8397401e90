// PSNR of nano's images in FP8 against float32 at the same seeds, with each example adapter and without one.
import path from 'node:path'
import type { Adapter } from '../../../gpu-fn/engine/package/adapters.ts'
import { findLoras } from '../../../gpu-fn/weights/additions/lora-packages.ts'
import { prepareBuiltInPackage } from '../../local/models/built-in-model.ts'
import { type RenderRequest, render, withPipeline } from '../../local/models/render.ts'
import { type Pixels, psnr, readPixels } from '../../receipts/compare-images.ts'

/** Images by the name of the adapter, in the order of the requests. */
type Images = ReadonlyMap<string, readonly Pixels[]>

/** Renders images with each example adapter at strength 1, and without one under the name `none`. */
async function renderExamples(tier: 'fp8' | 'fp32', requests: readonly RenderRequest[]): Promise<Images> {
  const directory = await prepareBuiltInPackage('nano', tier)
  const examples = await findLoras(path.dirname(directory))
  const sets: Record<string, Adapter[]> = { none: [] }
  for (const lora of examples) sets[lora.manifest.name] = [{ lora, scale: 1 }]
  return withPipeline(directory, async (pipeline) => {
    const images = new Map<string, Pixels[]>()
    for (const [name, adapters] of Object.entries(sets)) {
      await pipeline.adapt(adapters)
      const made: Pixels[] = []
      for (const request of requests) made.push(await readPixels(await render(pipeline, request)))
      images.set(name, made)
    }
    return images
  })
}

const computeMean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
const list = (values: readonly number[]) => values.map((value) => value.toFixed(1)).join(', ')

/** Prints for each adapter the PSNR of FP8 against float32, and the PSNR in float32 against the images without the adapter. */
export async function reportPsnr(requests: readonly RenderRequest[]): Promise<void> {
  const [fp8, fp32] = [await renderExamples('fp8', requests), await renderExamples('fp32', requests)]
  const prompts = requests.map(({ prompt, seed }) => `"${prompt}" (seed ${seed})`)
  console.log(`nano, FP8 against float32: ${prompts.join(', ')}`)
  for (const [name, references] of fp32) {
    const psnrs = references.map((reference, i) => psnr(fp8.get(name)![i]!, reference))
    console.log(`adapter ${name}: ${list(psnrs)} dB, mean ${computeMean(psnrs).toFixed(1)} dB`)
    const effects = references.map((reference, i) => psnr(reference, fp32.get('none')![i]!))
    if (name !== 'none') console.log(`  against the images without it: ${list(effects)} dB`)
  }
}
