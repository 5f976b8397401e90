// A ControlNet in an open pipeline: several devices, and changes by jobs that share steps.
import path from 'node:path'
import { beforeAll, expect, onTestFinished, test } from 'vitest'
import { planOf } from '../../../../gpu-fn/engine/package/graphs.ts'
import { openPipeline, type PipelineOptions } from '../../../../gpu-fn/engine/package/open-pipeline.ts'
import type { ControlnetPackage, NetworkName, Package } from '../../../../gpu-fn/manifest.ts'
import { type Txt2ImgRequest, txt2img } from '../../../../gpu-fn/pipeline/txt2img.ts'
import { openControlnet } from '../../../../gpu-fn/weights/additions/controlnet-packages.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'
import { compileTinyControlnet } from '../../../support/checkpoints/controlnet.ts'
import { BINDING } from '../../../support/native/addon.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()
let pkg: Package
beforeAll(async () => {
  pkg = await openPackage(await compileTiny({ variant: 'tiny-large', t5Layers: 1 }))
})

async function compileControlnet(): Promise<ControlnetPackage> {
  const directory = path.join(scratch.directory, 'controlnet')
  await compileTinyControlnet(directory, { type: 'depth' })
  return openControlnet(directory)
}

async function open(options: PipelineOptions) {
  const pipeline = await openPipeline(pkg, options)
  onTestFinished(() => pipeline.release())
  return pipeline
}

const REQUEST: Txt2ImgRequest = {
  ...{ prompt: 'a red heart', negative_prompt: 'blurry', seed: 1, width: 64, height: 64, steps: 4 },
  ...{ guidance_scale: 3, count: 1, output_format: 'png', output_quality: 90, text_convention: 'diffusers' },
}

async function imageOf(
  pipeline: Awaited<ReturnType<typeof open>>,
  { parallel, controlnet = null }: { parallel: boolean; controlnet?: ControlnetPackage | null },
): Promise<Buffer> {
  const opened = await pipeline.useControlnet(controlnet)
  const image = { pixels: new Uint8Array(3 * 64 * 64).map((_, i) => (i * 7) % 256) }
  const request = { ...REQUEST, ...(opened && { controls: [{ id: 'depth', scale: 1 }] }) }
  const options = { parallel, ...(opened && { controlnet: { opened, image } }) }
  for await (const event of txt2img(pipeline, request, new AbortController().signal, options))
    if (event.type === 'image') return Buffer.from(event.data)
  throw new Error('the pipeline returned no image')
}

test('guidance with a ControlNet runs on the first of two devices, and without it on both again', async () => {
  const controlnet = await compileControlnet()
  const pipeline = await open({ devices: 2, binding: BINDING, threads: 1 })
  const divided = await imageOf(pipeline, { parallel: true })
  const controlled = await imageOf(pipeline, { parallel: false, controlnet })
  expect(controlled).not.toEqual(divided)
  expect(await imageOf(pipeline, { parallel: true, controlnet })).toEqual(controlled)
  expect(await imageOf(pipeline, { parallel: true })).toEqual(divided)
})

test('several jobs that remove a ControlNet at the same time open each network once', async () => {
  const controlnet = await compileControlnet()
  const { peak: budget } = planOf(pkg, { budget: undefined })
  const opened: NetworkName[] = []
  const pipeline = await open({ budget, onOpen: (network) => opened.push(network) })
  const { resident } = pipeline.plan
  const expected = await imageOf(pipeline, { parallel: false })
  await imageOf(pipeline, { parallel: false, controlnet })
  expect(pipeline.plan.resident).not.toEqual(resident)
  await pipeline.suspend()
  opened.splice(0)
  await Promise.all([1, 2, 3].map(() => pipeline.useControlnet(null)))
  expect(pipeline.plan.resident).toEqual(resident)
  expect(opened.sort()).toEqual(resident.toSorted())
  expect(await imageOf(pipeline, { parallel: false })).toEqual(expected)
})

test('a ControlNet stays open for a larger image, whose job has a copy of its description', async () => {
  const controlnet = await compileControlnet()
  const { width, height } = pkg.manifest.defaults
  const larger = { width: 2 * width, height: 2 * height }
  const { peak: budget } = planOf(pkg, {}, larger, controlnet)
  const opened: NetworkName[] = []
  const pipeline = await open({ budget, onOpen: (network) => opened.push(network) })
  await imageOf(pipeline, { parallel: false, controlnet })
  expect(opened).toContain('control')
  opened.splice(0)
  const { plan } = pipeline
  await pipeline.useControlnet(structuredClone(controlnet), larger)
  expect(pipeline.plan).not.toEqual(plan)
  await imageOf(pipeline, { parallel: false, controlnet })
  expect(opened).not.toContain('control')
})
