// Packages that open during their download.
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { MemoryPlan } from '../../../../gpu-fn/engine/package/memory-plan.ts'
import { openPipeline } from '../../../../gpu-fn/engine/package/open-pipeline.ts'
import type { Package } from '../../../../gpu-fn/manifest.ts'
import { encodePrompts } from '../../../../gpu-fn/pipeline/prompt/prompt.ts'
import { txt2img } from '../../../../gpu-fn/pipeline/txt2img.ts'
import { createArrival, endArrival, setArrived } from '../../../../gpu-fn/weights/download/arrival.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { render } from '../../../../infra/local/models/render.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'

let pkg: Package
beforeAll(async () => {
  pkg = await openPackage(await compileTiny({ t5Layers: 1 }))
})

const REQUEST = { prompt: 'a red heart', seed: 1, width: 64, height: 64, steps: 2, guidance_scale: 3 }

describe('a package whose files arrive while it opens', () => {
  const startArrival = () => {
    const arrival = createArrival(pkg.manifest)
    const names = Object.keys(pkg.manifest.files)
    return { arriving: { ...pkg, arrival }, arrive: (name: string) => setArrived(arrival, names.indexOf(name)), names }
  }

  test('encodes prompts before the weights of the denoiser are there', async () => {
    const { arriving, arrive, names } = startArrival()
    const encoded = Promise.withResolvers<void>()
    const types: string[] = []
    const opened = openPipeline(arriving, {
      warmUp: async (pipeline) => {
        const { encoders, package: given } = pipeline
        await encodePrompts(encoders, given.manifest.text, [{ name: 'prompt', text: 'a heart' }], { batched: false })
        encoded.resolve()
        const output = { output_format: 'png', output_quality: 90, text_convention: 'diffusers' } as const
        const request = { ...REQUEST, negative_prompt: '', count: 1, ...output }
        for await (const { type } of txt2img(pipeline, request, new AbortController().signal)) types.push(type)
      },
    })
    for (const name of names) if (name !== 'transformer.weights') arrive(name)
    await encoded.promise
    expect(types).toEqual([])
    arrive('transformer.weights')
    const pipeline = await opened
    onTestFinished(() => pipeline.release())
    expect(types.at(-1)).toBe('finished')
    expect(pipeline.open()).toHaveLength(7)
    const complete = await openPipeline(pkg)
    onTestFinished(() => complete.release())
    expect(await render(pipeline, REQUEST)).toEqual(await render(complete, REQUEST))
  })

  test('encodes prompts of an image larger than the default before the denoiser is there', async () => {
    const { arriving, arrive, names } = startArrival()
    const { defaults } = pkg.manifest
    const size = { width: 2 * defaults.width, height: 2 * defaults.height }
    const plans: MemoryPlan[] = []
    const fitted = Promise.withResolvers<void>()
    const opened = openPipeline(arriving, {
      ...{ size, budget: 1e9, onPlan: (plan) => plans.push(plan) },
      warmUp: async (pipeline) => {
        await pipeline.fit(size)
        const { encoders, package: given } = pipeline
        await encodePrompts(encoders, given.manifest.text, [{ name: 'prompt', text: 'a heart' }], { batched: false })
        fitted.resolve()
      },
    })
    for (const name of names) if (name !== 'transformer.weights') arrive(name)
    await fitted.promise
    arrive('transformer.weights')
    const pipeline = await opened
    onTestFinished(() => pipeline.release())
    expect(plans).toEqual([pipeline.planFor(size, null).plan])
  })

  test('leaves nothing open when a file does not arrive', async () => {
    const { arriving, arrive, names } = startArrival()
    const opened = openPipeline(arriving)
    for (const name of names) if (name !== 'transformer.weights') arrive(name)
    endArrival(arriving.arrival)
    await expect(opened).rejects.toThrow(/transformer\.weights was not downloaded/)
  })

  test('the error of the warm-up is that of opening the package', async () => {
    const warmUp = () => Promise.reject(new Error('no image'))
    await expect(openPipeline(pkg, { warmUp })).rejects.toThrow('no image')
  })
})
