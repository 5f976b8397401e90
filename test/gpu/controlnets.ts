// Compares images with a ControlNet between GPU targets and the CPU. An image without it afterward must equal that before.
import path from 'node:path'
import { compile } from '../../gpu-fn/compile/compile.ts'
import { compileControlnet } from '../../gpu-fn/compile/controlnet.ts'
import { openControlnet } from '../../gpu-fn/weights/additions/controlnet-packages.ts'
import { writeTinyCheckpoint } from '../../infra/checkpoints/tiny/checkpoint.ts'
import { writeTinyControlnet } from '../../infra/checkpoints/tiny/controlnet.ts'
import { makeScratch } from '../../infra/command/scratch.ts'
import { render, withPipeline } from '../../infra/local/models/render.ts'
import { type Pixels, readPixels } from '../../infra/receipts/compare-images.ts'

const SIZE = 128
const REQUEST = { prompt: 'a red heart', seed: 3, steps: 4, guidance_scale: 3, width: SIZE, height: SIZE }
const CONTROLS = { controls: [{ id: 'tested', scale: 1 }] }
/**
 * Limits of mean differences, of 255. `devices`: maximum between CPU and GPU. `effect`: minimum effect of the ControlNet. `repeats`: maximum
 * between images before and after it; on target cuda, the VAE decoder is not deterministic.
 */
const LIMITS = { devices: 4, effect: 8, repeats: { cuda: 0.1, 'cuda-fp8': 0 } }

type Images = { before: Pixels; guided: Pixels; after: Pixels }

/** Prints the mean differences. Throws if a target's images are not those of the CPU. */
export async function compareControlnets(): Promise<void> {
  await using temporary = makeScratch('octet-controlnets-')
  const scratch = temporary.directory
  const failures: string[] = []
  const checkpoint = [await writeTinyCheckpoint(path.join(scratch, 'checkpoint'), { variant: 'tiny-large' })]
  const controlnet = await writeTinyControlnet(path.join(scratch, 'controlnet'))
  const imagesOf = async (target: 'cpu' | 'cuda' | 'cuda-fp8') => {
    const [out, own] = [path.join(scratch, target), path.join(scratch, `controlnet-${target}`)]
    await compile({ checkpoint, tier: 'fp8', variant: 'custom', target, out })
    await compileControlnet({ controlnet, tier: 'fp8', target, out: own, type: 'depth', name: 'tested' })
    return makeImages(out, own)
  }
  const cpu = await imagesOf('cpu')
  for (const target of ['cuda', 'cuda-fp8'] as const) {
    const gpu = await imagesOf(target)
    const [devices, effect] = [measureDifference(gpu.guided, cpu.guided), measureDifference(gpu.guided, gpu.before)]
    const restored = measureDifference(gpu.after, gpu.before)
    const good = devices <= LIMITS.devices && effect >= LIMITS.effect && restored <= LIMITS.repeats[target]
    const figures = `differs from the CPU by ${devices.toFixed(2)}, from the image without the ControlNet by ${effect.toFixed(2)}`
    console.log(`${good ? ' ' : '✗'} controlnet fp8 ${target}: ${figures}, afterward ${restored}`)
    if (!good) failures.push(target)
  }
  if (failures.length > 0) throw new Error(`ControlNets are wrong on ${failures.join(', ')}`)
}

async function makeImages(directory: string, own: string): Promise<Images> {
  const controlnet = await openControlnet(own)
  const pixels = Uint8Array.from({ length: 3 * SIZE * SIZE }, (_, i) => (((i / 3) | 0) % SIZE) * 2)
  return withPipeline(directory, async (pipeline) => ({
    before: await readPixels(await render(pipeline, REQUEST)),
    guided: await readPixels(
      await render(pipeline, { ...REQUEST, ...CONTROLS }, undefined, { control: { controlnet, pixels } }),
    ),
    after: await readPixels(await render(pipeline, REQUEST)),
  }))
}

/** Mean difference of two images, of 255. */
const measureDifference = ({ data: a }: Pixels, { data: b }: Pixels): number =>
  a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length
