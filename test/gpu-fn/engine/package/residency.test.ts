import path from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { chain } from '../../../../gpu-fn/engine/package/chain.ts'
import { BudgetError, type MemoryPlan } from '../../../../gpu-fn/engine/package/memory-plan.ts'
import {
  type OpenPipeline,
  openPipeline,
  type PipelineOptions,
} from '../../../../gpu-fn/engine/package/open-pipeline.ts'
import { Residency } from '../../../../gpu-fn/engine/package/residency.ts'
import { IMAGE_ENCODER, type NetworkName, type Package } from '../../../../gpu-fn/manifest.ts'
import { drawGaussianNoise } from '../../../../gpu-fn/pipeline/noise.ts'
import { txt2img } from '../../../../gpu-fn/pipeline/txt2img.ts'
import { openSession } from '../../../../gpu-fn/runtime/open-session.ts'
import { type DeviceTensor, HostTensor, type Session, type Tensor } from '../../../../gpu-fn/runtime/session.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { render } from '../../../../infra/local/models/render.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'
import { findMinimumBudget } from '../../../support/checkpoints/minimum-budget.ts'
import { BINDING } from '../../../support/native/addon.ts'

let pkg: Package
beforeAll(async () => {
  pkg = await openPackage(await compileTiny({ t5Layers: 1 }))
})

async function open(options: PipelineOptions): Promise<OpenPipeline> {
  const pipeline = await openPipeline(pkg, options)
  onTestFinished(() => pipeline.release())
  return pipeline
}

const REQUEST = { prompt: 'a red heart', seed: 1, width: 64, height: 64, steps: 2, guidance_scale: 3 }
const findMinimum = () => findMinimumBudget(pkg)

describe('a package within a budget', () => {
  test('produces the same image with all graphs open and with one at a time', async () => {
    const roomy = await open({})
    expect(roomy.open()).toHaveLength(7)
    const image = await render(roomy, REQUEST)
    const opened: NetworkName[] = []
    const tight = await open({ budget: findMinimum(), onOpen: (network) => opened.push(network) })
    expect(await render(tight, REQUEST)).toEqual(image)
    expect(tight.plan.offloaded).toContain('transformer')
    expect(opened).toEqual(expect.arrayContaining(['t5', 't5_2', 'conditioning', 'transformer', 'vae_decoder']))
    const before = opened.length
    expect(await render(tight, REQUEST)).toEqual(image)
    // The second image opens each offloaded network once more, and no resident one.
    const usual = tight.plan.offloaded.filter((network) => network !== IMAGE_ENCODER)
    expect(opened.slice(before).sort()).toEqual(usual.sort())
  })

  test('never has more than one graph open in addition to the resident ones', async () => {
    const tight = await open({ budget: findMinimum() })
    const request = { ...REQUEST, count: 3, negative_prompt: '', text_convention: 'diffusers' } as const
    const output = { output_format: 'png', output_quality: 90 } as const
    for await (const _ of txt2img(tight, { ...request, ...output }, new AbortController().signal)) {
      const extra = tight.open().filter((network) => !tight.plan.resident.includes(network))
      expect(extra.length).toBeLessThanOrEqual(1)
    }
    await tight.release()
    expect(tight.open()).toEqual([])
  })

  test('denoises all images before decoding if denoiser and decoder do not fit together', async () => {
    const opened: NetworkName[] = []
    const tight = await open({ budget: findMinimum(), onOpen: (network) => opened.push(network) })
    const request = { ...REQUEST, count: 3, negative_prompt: '', text_convention: 'diffusers' } as const
    const types: string[] = []
    const signal = new AbortController().signal
    for await (const event of txt2img(tight, { ...request, output_format: 'png', output_quality: 90 }, signal))
      if (event.type !== 'decoded') types.push(event.type === 'image' ? `image ${event.image}` : event.type)
    expect(types.slice(-4)).toEqual(['image 0', 'image 1', 'image 2', 'finished'])
    expect(opened.filter((network) => network === 'transformer')).toHaveLength(1)
  })

  test('plans again for a larger image, reports the plan, and refuses an image that does not fit', async () => {
    const plans: MemoryPlan[] = []
    const pipeline = await open({ budget: findMinimum() + 2e8, onPlan: (plan) => plans.push(plan) })
    expect(plans).toHaveLength(1)
    await pipeline.fit({ width: 64, height: 64 })
    expect(plans).toHaveLength(1)
    await pipeline.fit({ width: 320, height: 320 })
    expect(plans.at(-1)!.peak).toBeLessThanOrEqual(findMinimum() + 2e8)
    await expect(pipeline.fit({ width: 30_000, height: 30_000 })).rejects.toThrow(BudgetError)
    await expect(openPipeline(pkg, { budget: 1 })).rejects.toThrow(BudgetError)
  })
})

test('T5 in several graphs has the same result as in one', async () => {
  const [whole, parts] = await Promise.all(
    [{}, { t5Layers: 1 }].map(async (options) =>
      openPipeline(await openPackage(await compileTiny({ variant: 'tiny-odd', ...options }))),
    ),
  )
  onTestFinished(async () => {
    await whole!.release()
    await parts!.release()
  })
  expect(Object.keys(whole!.package.manifest.networks)).not.toContain('t5_2')
  expect(Object.keys(parts!.package.manifest.networks)).toContain('t5_3')
  const ids = { data: BigInt64Array.from({ length: 40 }, (_, i) => BigInt(i * 7)), dims: [2, 20] }
  const run = async ({ encoders }: OpenPipeline) =>
    (await encoders.find(({ about }) => about.name === 't5')!.session.run({ input_ids: ids })).hidden
  expect(await run(parts!)).toEqual(await run(whole!))
})

describe('residency', () => {
  const session = { run: async () => ({}), runOnDevice: async () => ({}), release: async () => {} }
  const closed: string[] = []
  const residency = new Residency(async (network) => ({
    ...session,
    release: async () => void closed.push(network),
  }))
  afterAll(() => residency.release())

  test('closes networks that are no longer resident before it opens others', async () => {
    await residency.setResident(['clip_l', 'clip_g'])
    await residency.session('t5').run({})
    expect(residency.open()).toEqual(['clip_l', 'clip_g', 't5'])
    await residency.session('transformer').run({})
    expect(residency.open()).toEqual(['clip_l', 'clip_g', 'transformer'])
    await residency.setResident(['transformer'])
    expect(closed).toEqual(['t5', 'clip_l', 'clip_g'])
    expect(residency.open()).toEqual(['transformer'])
  })

  test('the results of an offloaded session are available to the next one', async () => {
    const open = (network: NetworkName) =>
      openSession(path.join(pkg.directory, pkg.manifest.networks[network]!.file), { target: 'cpu', binding: BINDING })
    const { text, position } = pkg.manifest
    const createNoise = (...dims: number[]) => ({
      data: drawGaussianNoise(
        1,
        dims.reduce((n, dim) => n * dim),
      ),
      dims,
    })
    const prompt = { pooled: createNoise(1, text.pooled_width), prompt_embeds: createNoise(1, 8, text.joint_width) }
    const velocityOf = async (kept: NetworkName[]) => {
      const own = new Residency(open)
      await own.setResident(kept)
      const conditioning = own.session('conditioning')
      const results = await conditioning.runOnDevice({
        ...prompt,
        timesteps: { data: Float32Array.of(500), dims: [1] },
      })
      const inputs = {
        latent: createNoise(1, 16, 8, 8),
        context: results.context!,
        modulation: results.modulation!.row(0),
      }
      const { velocity } = await own.session('transformer').run(inputs)
      expect(own.open()).toEqual(kept.length > 0 ? kept : ['transformer'])
      await own.release()
      return velocity
    }
    expect(position.file).toBeUndefined()
    expect(await velocityOf([])).toEqual(await velocityOf(['conditioning', 'transformer']))
  })

  describe('of sessions with unloadable weights', () => {
    const readLogged = () => {
      const log: string[] = []
      const own = new Residency(async (network) => {
        log.push(`open ${network}`)
        const weights = {
          load: async () => void log.push(`load ${network}`),
          unload: () => void log.push(`unload ${network}`),
          update: async () => void log.push(`update ${network}`),
        }
        return { ...session, weights, release: async () => void log.push(`release ${network}`) }
      })
      return { own, log }
    }

    test('keeps them open without their weights', async () => {
      const { own, log } = readLogged()
      for (const network of ['t5', 'transformer', 't5'] as const) await own.session(network).run({})
      expect(own.open()).toEqual(['t5'])
      expect(log).toEqual(['open t5', 'unload t5', 'open transformer', 'unload transformer', 'load t5'])
      await own.release()
      expect(log.slice(5).sort()).toEqual(['release t5', 'release transformer'])
    })

    test('closes sessions that are no longer resident, and uses idle memory for those that are', async () => {
      const { own, log } = readLogged()
      await own.setResident(['clip_l', 'clip_g'])
      await own.session('t5').run({})
      await own.session('transformer').run({})
      await own.setResident(['clip_l', 't5'])
      expect(log.slice(3)).toEqual([
        ...['unload t5', 'open transformer'],
        ...['release clip_g', 'unload transformer', 'load t5'],
      ])
      expect(own.open()).toEqual(['clip_l', 't5'])
    })

    test('closes a suspended session on release', async () => {
      const { own, log } = readLogged()
      await own.session('t5').run({})
      await own.session('transformer').run({})
      await own.session('t5').release()
      await own.session('t5').run({})
      expect(log.slice(3)).toEqual(['release t5', 'unload transformer', 'open t5'])
    })
  })

  test('offloaded networks take turns, even for concurrent requests', async () => {
    let max = 0
    const own = new Residency(async () => ({
      ...session,
      run: async () => {
        max = Math.max(max, own.open().length)
        await setImmediate()
        return {}
      },
    }))
    await Promise.all((['clip_l', 'clip_g', 't5', 'clip_l'] as const).map((network) => own.session(network).run({})))
    expect(max).toBe(1)
  })

  test('a run while others load waits for its own network only, which opens once', async () => {
    const denoiser = Promise.withResolvers<void>()
    const opened: NetworkName[] = []
    const own = new Residency(async (network) => {
      opened.push(network)
      if (network === 'transformer') await denoiser.promise
      return session
    })
    const loading = own.setResident(['t5', 'transformer'])
    await own.session('t5').run({})
    const step = own.session('transformer').run({})
    expect(own.open()).toEqual(['t5'])
    denoiser.resolve()
    await Promise.all([loading, step])
    expect(own.open()).toEqual(['t5', 'transformer'])
    expect(opened).toEqual(['t5', 'transformer'])
  })

  test('the release waits for networks that are being loaded, so that none stays open', async () => {
    const gate = Promise.withResolvers<void>()
    let released = 0
    const own = new Residency(async (network) => {
      await gate.promise
      if (network === 'transformer') throw new Error('no room')
      return { ...session, release: async () => void released++ }
    })
    const loading = expect(own.setResident(['t5', 'transformer'])).rejects.toThrow('no room')
    const releasing = own.release()
    gate.resolve()
    await releasing
    await loading
    expect(released).toBe(1)
    expect(own.open()).toEqual([])
  })

  test('a network that cannot be opened does not affect the others', async () => {
    const failing = new Residency(async (network) => {
      if (network === 't5') throw new Error('no room')
      return session
    })
    await failing.session('clip_l').run({})
    await expect(failing.session('t5').run({})).rejects.toThrow('no room')
    await failing.session('clip_g').run({})
    expect(failing.open()).toEqual(['clip_g'])
  })
})

test('a chain passes the results of each session to the next', async () => {
  let onDevice = 0
  class Counted extends HostTensor {
    override release = () => void onDevice--
  }
  const add = (n: number): Session => {
    const run = async ({ x }: Record<string, Tensor | DeviceTensor>) => ({
      x: { data: ((x as Tensor).data as Float32Array).map((value) => value * 10 + n), dims: x!.dims },
    })
    const runOnDevice = async (inputs: Record<string, Tensor | DeviceTensor>) => {
      onDevice++
      return { x: new Counted((await run(inputs)).x) }
    }
    return { run, runOnDevice, release: async () => {} }
  }
  const given = { x: { data: Float32Array.of(3), dims: [1] } }
  const { x } = await chain([add(1), add(2), add(3)]).run(given)
  expect(x!.data).toEqual(Float32Array.of(3123))
  expect(onDevice).toBe(0)
  const failing: Session = { ...add(0), run: () => Promise.reject(new Error('no room')) }
  await expect(chain([add(1), failing]).run(given)).rejects.toThrow('no room')
  expect(onDevice).toBe(0)
})

test('a suspended network keeps its session and loads its weights again for the next run', async () => {
  const calls: string[] = []
  const sessionOf = (network: NetworkName): Session => ({
    run: async () => {
      calls.push(`run ${network}`)
      return {}
    },
    runOnDevice: async () => ({}),
    weights: {
      load: async () => void calls.push(`load ${network}`),
      unload: () => void calls.push(`unload ${network}`),
      update: async () => void calls.push(`update ${network}`),
    },
    release: async () => void calls.push(`release ${network}`),
  })
  const residency = new Residency(async (network) => {
    calls.push(`open ${network}`)
    return sessionOf(network)
  })
  await residency.setResident(['transformer'])
  await residency.session('transformer').run({})
  await residency.suspend()
  expect(residency.open()).toEqual([])
  await residency.setResident(['transformer'])
  await residency.session('transformer').run({})
  expect(calls).toEqual([
    ...['open transformer', 'run transformer', 'unload transformer'],
    ...['load transformer', 'run transformer'],
  ])
  await residency.release()
  expect(calls.at(-1)).toBe('release transformer')
})
