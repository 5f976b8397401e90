import { setTimeout as sleep } from 'node:timers/promises'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type OpenPipeline, openPipeline } from '../../../gpu-fn/engine/package/open-pipeline.ts'
import type { PipelineEvent } from '../../../gpu-fn/pipeline/events.ts'
import { readParameters } from '../../../gpu-fn/pipeline/image.ts'
import { type Txt2ImgRequest, txt2img } from '../../../gpu-fn/pipeline/txt2img.ts'
import type { Session, Tensor } from '../../../gpu-fn/runtime/session.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { compileTiny, type TinyPackage } from '../../support/checkpoints/compile.ts'

type ImageEvent = Extract<PipelineEvent, { type: 'image' }>

const REQUEST: Txt2ImgRequest = {
  prompt: 'a red heart on a blue sky',
  negative_prompt: 'blurry',
  width: 48,
  height: 32,
  steps: 3,
  guidance_scale: 4,
  seed: 42,
  count: 1,
  output_format: 'png',
  output_quality: 90,
  text_convention: 'diffusers',
}

const opened: OpenPipeline[] = []
afterAll(async () => {
  for (const pipeline of opened) await pipeline.release()
})

async function open(tiny: TinyPackage): Promise<OpenPipeline> {
  const pipeline = await openPipeline(await openPackage(await compileTiny(tiny), { verify: true }))
  opened.push(pipeline)
  return pipeline
}

async function collect(pipeline: OpenPipeline, request: Partial<Txt2ImgRequest> = {}): Promise<PipelineEvent[]> {
  const events: PipelineEvent[] = []
  for await (const event of txt2img(pipeline, { ...REQUEST, ...request }, new AbortController().signal))
    events.push(event)
  return events
}

async function generateImages(pipeline: OpenPipeline, request: Partial<Txt2ImgRequest> = {}): Promise<ImageEvent[]> {
  return (await collect(pipeline, request)).filter((event) => event.type === 'image')
}

async function measureLargestDifference(a: ImageEvent, b: ImageEvent): Promise<number> {
  const [x, y] = await Promise.all([a, b].map(({ data }) => sharp(data).raw().toBuffer()))
  expect(x!.length).toBe(y!.length)
  return x!.reduce((max, value, i) => Math.max(max, Math.abs(value - y![i]!)), 0)
}

describe('a tiny SD3.5 in float32', () => {
  let pipeline: OpenPipeline
  beforeAll(async () => {
    pipeline = await open({})
  })

  test('yields the encoding, each step and the image, in this order', async () => {
    const events = await collect(pipeline)
    expect(events.map(({ type }) => type)).toEqual(['encoded', 'step', 'step', 'step', 'decoded', 'image', 'finished'])
    expect(events[1]).toEqual({ type: 'step', image: 0, step: 1, steps: 3 })
    const image = events[5] as ImageEvent
    expect(image).toMatchObject({ image: 0, seed: 42, width: 48, height: 32, content_type: 'image/png' })
    expect(await sharp(image.data).metadata()).toMatchObject({ width: 48, height: 32, format: 'png' })
  })

  test('yields previews on request, with the same final image', async () => {
    const [image] = await generateImages(pipeline)
    const events = await collect(pipeline, { preview_steps: 1 })
    expect(events.map(({ type }) => type)).toEqual([
      'encoded',
      'step',
      'preview',
      'step',
      'preview',
      'step',
      'decoded',
      'image',
      'finished',
    ])
    expect(events[2]).toMatchObject({ image: 0, step: 1, width: 6, height: 4, content_type: 'image/jpeg' })
    expect(events.find((event) => event.type === 'image')!.data).toEqual(image!.data)
    const sparse = await collect(pipeline, { preview_steps: 2 })
    expect(sparse.flatMap((event) => (event.type === 'preview' ? [event.step] : []))).toEqual([2])
  })

  test('produces the same bytes every time, and others for another seed, prompt, negative prompt, scale or number of steps', async () => {
    const [image] = await generateImages(pipeline)
    expect((await generateImages(pipeline))[0]!.data).toEqual(image!.data)
    const changes: Partial<Txt2ImgRequest>[] = [
      { seed: 43 },
      { prompt: 'a cat' },
      { negative_prompt: '' },
      { guidance_scale: 2 },
      { steps: 4 },
      { prompt_2: 'a cat' },
      { prompt_3: 'a cat' },
      { max_sequence_length: 100 },
    ]
    for (const change of changes) {
      const [other] = await generateImages(pipeline, change)
      expect(await measureLargestDifference(image!, other!), JSON.stringify(change)).toBeGreaterThan(2)
    }
  })

  test('image k equals the image of seed + k, modulo 2^64', async () => {
    const several = await generateImages(pipeline, { count: 3, seed: '18446744073709551614' })
    expect(several.map(({ image, seed }) => [image, seed])).toEqual([
      [0, '18446744073709551614'],
      [1, '18446744073709551615'],
      [2, 0],
    ])
    const [alone] = await generateImages(pipeline, { seed: 0 })
    expect(await measureLargestDifference(several[2]!, alone!)).toBe(0)
  })

  test('runs more steps than the modulation is precomputed for', async () => {
    const events = await collect(pipeline, { steps: 101 })
    expect(events.filter(({ type }) => type === 'step')).toHaveLength(101)
    expect(events.at(-2)).toMatchObject({ type: 'image' })
  })

  test.each(['transformer', 'vaeDecoder'] as const)(
    'infinity from the %s is an error without an image',
    async (network) => {
      const session = pipeline[network]
      const run: typeof session.run = async (...given) => {
        const outputs = await session.run(...given)
        for (const { data } of Object.values(outputs))
          if (data instanceof Float32Array) data.fill(Number.POSITIVE_INFINITY)
        return outputs
      }
      const broken = { ...pipeline, [network]: { ...session, run } }
      await expect(collect(broken)).rejects.toThrow(/contains NaN or infinity/)
    },
  )

  test('up to a guidance scale of 1 the negative prompt is not read', async () => {
    const [image] = await generateImages(pipeline, { guidance_scale: 1, negative_prompt: 'blurry' })
    for (const change of [{ negative_prompt: 'a cat' }, { guidance_scale: 0, negative_prompt: '' }]) {
      const [other] = await generateImages(pipeline, { guidance_scale: 1, ...change })
      expect(await measureLargestDifference(image!, other!)).toBe(0)
    }
  })

  test('sequential runs of negative and positive prompt produce the same image as a batch', async () => {
    const manifest = { ...pipeline.package.manifest, transformer_batch: 1 as const }
    const oneByOne = { ...pipeline, package: { ...pipeline.package, manifest } }
    const [together] = await generateImages(pipeline)
    const [apart] = await generateImages(oneByOne)
    expect(await measureLargestDifference(together!, apart!)).toBeLessThanOrEqual(1)
  })

  test('warns of truncated prompts, by prompt and encoder', async () => {
    const long = 'cat '.repeat(300)
    const events = await collect(pipeline, { prompt: long, negative_prompt: long, steps: 1 })
    const warnings = events.filter((event) => event.type === 'warning')
    expect(warnings.map(({ code }) => code)).toEqual(new Array(6).fill('prompt_truncated'))
    expect(
      warnings.map(({ message }) => /the (.*) exceeds the \d+ tokens of (.*), so/.exec(message)?.slice(1)),
    ).toEqual([
      ['negative prompt', 'CLIP-L'],
      ['prompt', 'CLIP-L'],
      ['negative prompt', 'CLIP-G'],
      ['prompt', 'CLIP-G'],
      ['negative prompt', 'T5'],
      ['prompt', 'T5'],
    ])
  })

  test.each(['jpeg', 'webp'] as const)('writes %s with its parameters', async (output_format) => {
    const [image] = await generateImages(pipeline, { output_format })
    expect(image!.content_type).toBe(`image/${output_format}`)
    const { prompt, negative_prompt, seed, steps, guidance_scale, width, height, text_convention } = REQUEST
    const { manifest, digest } = pipeline.package
    expect(await readParameters(image!.data)).toEqual({
      ...{ prompt, negative_prompt, seed, steps, guidance_scale, width, height, text_convention },
      ...{ model: manifest.model, tier: 'fp32', package: digest, tool: manifest.tool },
    })
  })

  const interval = { guidance_interval: { start: 0.1, stop: 0.6 } }
  const skipping = { skip_layer_guidance: { scale: 2.5, start: 0.01, stop: 0.2, layers: [0] } }
  test.for<[Partial<Txt2ImgRequest>, number, number]>([
    [{ sampler: 'euler', count: 2 }, 112, 68],
    [{ sampler: 'heun' }, 110, 66],
    [interval, 42, 25],
    [skipping, 61, 39],
    [{ sampler: 'lcm' }, 56, 56],
    [{ steps: 27 }, 54, 54],
  ])('%j: %d evaluations without step caching, %d with it', async ([options, all, some]) => {
    let samples = 0
    const { transformer } = pipeline
    const run: typeof transformer.run = (inputs, ...rest) => {
      samples += (inputs.latent as Tensor).dims[0]!
      return transformer.run(inputs, ...rest)
    }
    const counted: OpenPipeline = { ...pipeline, transformer: { ...transformer, run } }
    const request = { steps: 28, ...options }
    const plain = await generateImages(counted, request)
    expect(samples).toBe(all)
    samples = 0
    const cached = await generateImages(counted, { ...request, cache: 'fast' })
    expect(samples).toBe(some)
    expect((await measureLargestDifference(plain[0]!, cached[0]!)) > 0).toBe(some < all)
    expect(await readParameters(cached[0]!.data)).toMatchObject({ cache: 'fast' })
    expect(await readParameters(plain[0]!.data)).not.toHaveProperty('cache')
    if (cached.length === 1) return
    const [second] = await generateImages(pipeline, { ...request, seed: 43, count: 1, cache: 'fast' })
    expect(second!.data).toEqual(cached[1]!.data)
  })

  test('omits all prompts from the file on request, with the same pixels', async () => {
    const request = { prompt_2: 'another prompt', prompt_3: 'a third prompt' }
    const [[plain], [image]] = [
      await generateImages(pipeline, request),
      await generateImages(pipeline, { ...request, prompt_metadata: false }),
    ]
    const written = Buffer.from(image!.data).toString('latin1')
    expect(written).not.toMatch(/prompt/i)
    expect(written).not.toContain(REQUEST.prompt)
    expect(written).toContain('trainedAlgorithmicMedia')
    const { prompt, negative_prompt, prompt_2, prompt_3, ...others } = (await readParameters(plain!.data))!
    expect([prompt, negative_prompt, prompt_2, prompt_3]).toEqual([
      ...[REQUEST.prompt, REQUEST.negative_prompt, request.prompt_2, request.prompt_3],
    ])
    expect(await readParameters(image!.data)).toEqual(others)
    expect(await sharp(image!.data).raw().toBuffer()).toEqual(await sharp(plain!.data).raw().toBuffer())
  })

  test('stops between steps with the reason of the signal', async () => {
    const abort = new AbortController()
    const reason = new Error('the caller left')
    const seen: string[] = []
    const run = async () => {
      for await (const event of txt2img(pipeline, REQUEST, abort.signal)) {
        seen.push(event.type)
        if (event.type === 'step' && event.step === 2) abort.abort(reason)
      }
    }
    await expect(run()).rejects.toBe(reason)
    expect(seen).toEqual(['encoded', 'step', 'step'])
    expect(await generateImages(pipeline)).toHaveLength(1)
  })

  test('the error of the prompts is thrown once the encoding of the input image has ended', async () => {
    let isEnded = false
    const session = pipeline.vaeEncoder!
    const run: Session['run'] = async (...given) => {
      await sleep(50)
      isEnded = true
      return session.run(...given)
    }
    const vaeEncoder = { ...session, run }
    const input = { pixels: new Uint8Array(REQUEST.width * REQUEST.height * 3), mask: null, soft: false }
    const remember = () => Promise.reject(new Error('no prompts'))
    const { signal } = new AbortController()
    const events = txt2img({ ...pipeline, vaeEncoder }, REQUEST, signal, { input, remember })
    await expect(events.next()).rejects.toThrow('no prompts')
    expect(isEnded).toBe(true)
  })

  test('an aborted signal starts nothing', async () => {
    const events = txt2img(pipeline, REQUEST, AbortSignal.abort(new Error('too late')))
    await expect(events.next()).rejects.toThrow('too late')
  })

  test.each([
    [{ width: 40 }, /width is 40; this model supports multiples of 16 up to \d+/],
    [{ height: 1_000_000 * 16 }, /height is 16000000/],
    [{ width: 0 }, /width is 0/],
  ])('refuses %j', async (size, message) => {
    await expect(generateImages(pipeline, size)).rejects.toThrow(
      expect.objectContaining({ name: 'RangeError', message: expect.stringMatching(message) }),
    )
  })
})

describe('other packages', () => {
  test.each([
    ['FP8', { tier: 'fp8' }],
    ['FP8 without T5', { tier: 'fp8-lite' }],
    ['FP8 with 4-bit MLPs', { tier: 'fp8-int4' }],
    ['a checkpoint without T5', { t5: false }],
    ['a position table of its own', { variant: 'tiny-large' }],
    ['no QK-norm', { variant: 'tiny-sd3' }],
  ] satisfies [string, TinyPackage][])('%s: an image that depends on its seed', async (_, tiny) => {
    const pipeline = await open(tiny)
    const [first, second] = await generateImages(pipeline, { count: 2 })
    expect(await measureLargestDifference(first!, second!)).toBeGreaterThan(8)
  })

  test('an unreadable graph is named in the error, and nothing stays open', async () => {
    const pkg = await openPackage(await compileTiny({}))
    const networks = { ...pkg.manifest.networks, vae_decoder: { file: 'manifest.json', inputs: [], outputs: [] } }
    const broken = { ...pkg, manifest: { ...pkg.manifest, networks } }
    await expect(openPipeline(broken)).rejects.toThrow(
      expect.objectContaining({ name: 'SessionError', message: expect.stringMatching(/cannot open .*manifest\.json/) }),
    )
  })
})
