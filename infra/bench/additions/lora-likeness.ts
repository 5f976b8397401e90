// Images of nano in FP8 against float32, at one seed: with each example adapter, and without one.
import path from 'node:path'
import type { Adapter } from '../../../gpu-fn/engine/package/adapters.ts'
import { findLoras } from '../../../gpu-fn/weights/lora-packages.ts'
import { builtInPackage } from '../../local/models/built-in-model.ts'
import { type RenderRequest, render, withPipeline } from '../../local/models/render.ts'
import { type Pixels, psnr, readPixels } from '../../receipts/compare-images.ts'

/** An image of nano with each example adapter at strength 1, and without one under the name `none`. */
export async function exampleImages(tier: 'fp8' | 'fp32', request: RenderRequest): Promise<Map<string, Pixels>> {
  const directory = await builtInPackage('nano', tier)
  const examples = await findLoras(path.dirname(directory))
  const sets: Record<string, Adapter[]> = { none: [] }
  for (const lora of examples) sets[lora.manifest.name] = [{ lora, scale: 1 }]
  return withPipeline(directory, async (pipeline) => {
    const images = new Map<string, Pixels>()
    for (const [name, adapters] of Object.entries(sets)) {
      await pipeline.adapt(adapters)
      images.set(name, await readPixels(await render(pipeline, request)))
    }
    return images
  })
}

/** Prints the PSNR of FP8 against float32 for each set of adapters, and how much the adapter changes the image in float32. */
export async function reportLikeness(request: RenderRequest): Promise<void> {
  const [fp8, fp32] = [await exampleImages('fp8', request), await exampleImages('fp32', request)]
  console.log(`nano, "${request.prompt}", seed ${request.seed}: FP8 against float32`)
  for (const [name, reference] of fp32) {
    const effect =
      name === 'none' ? '' : `; against the image without it ${psnr(reference, fp32.get('none')!).toFixed(1)} dB`
    console.log(`adapter ${name}: ${psnr(fp8.get(name)!, reference).toFixed(1)} dB${effect}`)
  }
}
