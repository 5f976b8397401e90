// The whole system: the command line of the demo, and official clients of the worker with the real GPU function.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import type { JSONWebKeySet } from 'jose'
import OpenAI from 'openai'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openReceipt } from '../../edge/results/receipt.ts'
import { type Local, startLocal } from '../../infra/local/local.ts'

const DEMO = path.join(import.meta.dirname, '../../infra/local/demo.ts')
let scratch: string
beforeAll(async () => {
  scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-whole-'))
})
afterAll(() => fs.rm(scratch, { recursive: true }))

type CommandOutcome = { code: number; stdout: string; stderr: string }
const runDemo = (...args: string[]): Promise<CommandOutcome> =>
  promisify(execFile)(process.execPath, [DEMO, ...args]).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error) => error,
  )

describe('npm run demo', () => {
  test('writes the image of a prompt and prints its parameters', async () => {
    const out = path.join(scratch, 'new', 'heart.webp')
    const { code, stdout, stderr } = await runDemo(
      'a red heart',
      '--route',
      'full',
      '--size',
      '64x96',
      '--seed',
      '7',
      '--out',
      out,
    )
    expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringMatching(/running: step \d+ of 28/) })
    expect(stdout).toMatch(/Route full: nano in fp8, 28 steps, guidance scale 7\. /)
    expect(stdout).toMatch(/Times: queue .*encode .*denoise .*decode .*total/)
    expect(stdout).toContain(`${out}  (64x96, seed 7)`)
    expect(await sharp(out).metadata()).toMatchObject({ format: 'webp', width: 64, height: 96 })
  })

  test('prints JSON, and the same seed produces the same image', async () => {
    const files = [path.join(scratch, 'a.png'), path.join(scratch, 'b.png')]
    for (const file of files) {
      const { stdout } = await runDemo('a red heart', '--json', '--size', '64x64', '--seed', '7', '--out', file)
      expect(JSON.parse(stdout)).toMatchObject({ file, seed: 7, size: '64x64', route: 'turbo', steps: 4, warnings: [] })
    }
    expect(await fs.readFile(files[1]!)).toEqual(await fs.readFile(files[0]!))
  })

  test('opens the playground with a key, and serves it until a signal', async () => {
    const opened = path.join(scratch, 'opened')
    await fs.mkdir(path.join(scratch, 'bin'))
    await fs.writeFile(path.join(scratch, 'bin/xdg-open'), `#!/bin/sh\nprintf %s "$1" > ${opened}\n`, { mode: 0o755 })
    const PATH = `${path.join(scratch, 'bin')}:${process.env.PATH}`
    const child = spawn(process.execPath, [DEMO, '--open'], { env: { ...process.env, PATH } })
    try {
      await expect.poll(() => fs.readFile(opened, 'utf8').catch(() => ''), { timeout: 90_000 }).not.toBe('')
      const [url, key] = (await fs.readFile(opened, 'utf8')).split('/#key=') as [string, string]
      const page = await fetch(url)
      expect([page.status, await page.text()]).toEqual([200, expect.stringContaining('<title>Octet</title>')])
      const models = await fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })
      expect(models.status).toBe(200)
    } finally {
      child.kill('SIGINT')
      await once(child, 'exit')
    }
  })

  test.each([
    [['a heart', '--size', 'wide'], /size is "wide"; it must be "auto" or "WIDTHxHEIGHT", such as "1024x1024"/],
    [['a heart', '--out', 'picture.bmp'], /The extension must be one of \.png, \.jpg, \.jpeg, \.webp/],
    [['a heart', '--route', 'scenic'], /Allowed choices are turbo, full/],
    [[], /missing required argument 'prompt'/],
  ])('%j is refused with an explanation', async (args, message) => {
    const { code, stderr } = await runDemo(...args)
    expect(stderr).toMatch(message)
    expect(stderr).not.toMatch(/\n\s+at /)
    expect(code).toBe(1)
  })
})

describe('the worker with the GPU function behind it', () => {
  let local: Local
  let client: OpenAI
  beforeAll(async () => {
    local = await startLocal()
    client = new OpenAI({ baseURL: `${local.url}/v1`, apiKey: local.key, maxRetries: 0 })
  })
  afterAll(() => local.stop())

  // Fields of ours that the official client passes on.
  const generate = (fields: Record<string, unknown>) =>
    client.images.generate({ prompt: 'a cat', size: '64x64', ...fields } as OpenAI.ImageGenerateParamsNonStreaming)

  test('replies to the official client with the URL of the image', async () => {
    const { data } = await generate({ seed: 11 })
    const response = await fetch(data![0]!.url!)
    expect(response.headers.get('content-type')).toBe('image/png')
    expect(await sharp(await response.arrayBuffer()).metadata()).toMatchObject({ format: 'png', width: 64, height: 64 })
  })

  test('generates image k of n like a single image of seed + k', async () => {
    const bytes = async (fields: Record<string, unknown>) =>
      (await generate({ response_format: 'b64_json', ...fields })).data!.map(({ b64_json }) => b64_json)
    const three = await bytes({ n: 3, seed: 20 })
    expect(new Set(three).size).toBe(3)
    expect(await bytes({ seed: 22 })).toEqual([three[2]])
  })

  test('samples as requested, in the native API and in a dialect, and charges for the evaluations', async () => {
    const native = async (fields: Record<string, unknown>) =>
      (await generate({ seed: 5, response_format: 'b64_json', ...fields })) as unknown as {
        data: { b64_json: string }[]
        octet: { steps: number; price_microdollars: number }
      }
    const plain = await native({})
    const choices = [
      { sampler: 'heun', noise_schedule: 'simple' },
      { sampler: 'dpmpp_2m' },
      { sigmas: [1, 0.7, 0.5, 0.2] },
    ]
    const made = await Promise.all(choices.map(native))
    expect(new Set([plain, ...made].map(({ data }) => data[0]!.b64_json)).size).toBe(4)
    expect(made.map(({ octet }) => octet.steps)).toEqual([4, 4, 4])
    const prices = [plain, ...made].map(({ octet }) => octet.price_microdollars - 200)
    expect(prices).toEqual([4, 7, 4, 4].map((runs) => Math.ceil((64 * 64 * runs * 300) / 1e6)))
    const sampling = { sampler_name: 'Heun', scheduler: 'Simple', prompt_weights: false }
    const body = { prompt: 'a cat', seed: 5, width: 64, height: 64, ...sampling }
    const headers = { authorization: `Bearer ${local.key}`, 'content-type': 'application/json' }
    const init = { method: 'POST', headers, body: JSON.stringify(body) }
    const { images } = (await (await fetch(`${local.url}/sdapi/v1/txt2img`, init)).json()) as { images: string[] }
    expect(images).toEqual([made[0]!.data[0]!.b64_json])
  })

  test('applies a guidance interval and skip-layer guidance', async () => {
    const guided = async (fields: Record<string, unknown>) =>
      (await generate({ route: 'full', steps: 4, seed: 5, response_format: 'b64_json', ...fields })) as unknown as {
        data: { b64_json: string }[]
        octet: { price_microdollars: number }
      }
    const made = await Promise.all(
      [
        {},
        { guidance_interval: { stop: 0.5 } },
        { skip_layer_guidance: { layers: [2], stop: 0.75 } },
        { guidance_interval: { stop: 0.5 }, skip_layer_guidance: { layers: [2], stop: 0.75 }, sampler: 'heun' },
      ].map(guided),
    )
    expect(new Set(made.map(({ data }) => data[0]!.b64_json)).size).toBe(4)
    const runs = made.map(({ octet }) => octet.price_microdollars - 200)
    expect(runs).toEqual([8, 6, 10, 7 + 4 + 2].map((count) => Math.ceil((64 * 64 * count * 300) / 1e6)))
    const unknown = generate({ route: 'full', skip_layer_guidance: true })
    await expect(unknown).rejects.toThrow('nano has no published ones; list some of its 8 blocks')
    await expect(guided({ skip_layer_guidance: { layers: [8] } })).rejects.toThrow('the layers of nano are 0 to 7')
  })

  test('reuses steps with cache, including jobs with an input image, and reflects it in the price, a warning and the receipt', async () => {
    type Made = {
      data: { b64_json: string }[]
      octet: { job: string; route: string; price_microdollars: number; warnings: { code: string }[] }
    }
    const requestCached = async (fields: Record<string, unknown>) =>
      (await generate({ steps: 28, seed: 5, response_format: 'b64_json', ...fields })) as unknown as Made
    const plain = await requestCached({ route: 'full' })
    const [once, again] = [await requestCached({ cache: 'fast' }), await requestCached({ cache: 'fast' })]
    expect(once.octet).toMatchObject({ route: 'full', warnings: [{ code: 'steps_cached' }] })
    expect(once.data).not.toEqual(plain.data)
    expect(once.data).toEqual(again.data)
    const evaluations = [56, 34].map((count) => Math.ceil((64 * 64 * count * 300) / 1e6))
    expect([plain, once].map(({ octet }) => octet.price_microdollars - 200)).toEqual(evaluations)
    const image = `data:image/png;base64,${plain.data[0]!.b64_json}`
    const changed = await requestCached({ cache: 'fast', image, strength: 0.8 })
    expect(changed.octet.warnings).toMatchObject([{ code: 'steps_cached' }])

    const headers = { authorization: `Bearer ${local.key}` }
    const get = async <T>(at: string) => (await (await fetch(`${local.url}${at}`, { headers })).json()) as T
    const { data } = await get<{ data: { receipt: string }[] }>(`/v1/jobs/${once.octet.job}/receipts`)
    const claims = await openReceipt(data[0]!.receipt, await get<JSONWebKeySet>('/.well-known/jwks.json'))
    expect(claims).toMatchObject({ parameters: { cache: 'fast', steps: 28 }, steps_run: 28 })
    await expect(requestCached({ cache: 'fast', route: 'turbo' })).rejects.toThrow(
      'the turbo route has no step caching',
    )
    await expect(requestCached({ cache: 'fast', model: 'nano-turbo' })).rejects.toThrow('route full, model nano-turbo')
  })

  test('applies prompt weights on request, in the A1111 API by default, and otherwise warns that they are read as words', async () => {
    const prompt = 'a (red heart:1.6) on a blue background'
    const native = async (fields: Record<string, unknown>) =>
      (await generate({ prompt, seed: 5, response_format: 'b64_json', ...fields })) as unknown as {
        data: { b64_json: string }[]
        octet: { warnings: { code: string }[] }
      }
    const [plain, weighted] = [await native({}), await native({ prompt_weights: true })]
    expect(weighted.data[0]!.b64_json).not.toBe(plain.data[0]!.b64_json)
    expect(plain.octet.warnings.map(({ code }) => code)).toContain('prompt_weights_ignored')
    expect(weighted.octet.warnings).toEqual([])
    const headers = { authorization: `Bearer ${local.key}`, 'content-type': 'application/json' }
    const body = JSON.stringify({ prompt, seed: 5, width: 64, height: 64 })
    const reply = await fetch(`${local.url}/sdapi/v1/txt2img`, { method: 'POST', headers, body })
    expect((await reply.json()) as object).toMatchObject({ images: [weighted.data[0]!.b64_json] })
    const heavy = generate({ prompt: '(a cat:99)', prompt_weights: true })
    await expect(heavy).rejects.toThrow('prompt has the weight 99; weights are from -10 to 10')
  })

  test('warns the caller about the truncated part of a prompt', async () => {
    const reply = (await generate({ prompt: 'flowers and '.repeat(60) })) as unknown as {
      octet: { warnings: { code: string; message: string }[] }
    }
    expect(reply.octet.warnings.map(({ code }) => code)).toContain('prompt_truncated')
    expect(reply.octet.warnings[0]!.message).toMatch(/77/)
  })

  describe('an input image', () => {
    let image: Uint8Array<ArrayBuffer>
    beforeAll(async () => {
      const { data } = await generate({ prompt: 'a red heart', seed: 5, response_format: 'b64_json' })
      image = Uint8Array.from(Buffer.from(data![0]!.b64_json!, 'base64'))
    })

    /** Mean absolute difference between `file` and the input image within the rectangle `part`. */
    async function measureDifference(
      file: Uint8Array,
      part: { left: number; top: number; width: number; height: number },
    ) {
      const [a, b] = await Promise.all([image, file].map((each) => sharp(each).extract(part).raw().toBuffer()))
      return a!.reduce((sum, value, i) => sum + Math.abs(value - b![i]!), 0) / a!.length
    }
    const WHOLE = { left: 0, top: 0, width: 64, height: 64 }

    test('is edited by the official client, and changes less at a lower strength', async () => {
      const edit = async (strength: number) => {
        const file = new File([image], 'image.png', { type: 'image/png' })
        const fields = { image: file, prompt: 'a cat', size: '64x64', seed: 3, strength, response_format: 'b64_json' }
        const { data } = await client.images.edit(fields as unknown as OpenAI.ImageEditParamsNonStreaming)
        return measureDifference(Buffer.from(data![0]!.b64_json!, 'base64'), WHOLE)
      }
      const [slight, strong] = [await edit(0.25), await edit(1)]
      expect(slight).toBeLessThan(20)
      expect(strong).toBeGreaterThan(2 * slight)
    })

    test('is repainted by img2img within the mask only', async () => {
      const [painted, kept] = [0, 32].map((left) => ({ left, top: 0, width: 32, height: 64 }))
      const white = { create: { width: 32, height: 64, channels: 3, background: 'white' } } as const
      const mask = await sharp({ create: { ...white.create, width: 64, background: 'black' } })
        .composite([{ input: await sharp(white).png().toBuffer(), left: 0, top: 0 }])
        .png()
        .toBuffer()
      const base64 = (file: Uint8Array) => Buffer.from(file).toString('base64')
      const body = { init_images: [base64(image)], mask: base64(mask), mask_blur: 0, denoising_strength: 1 }
      const response = await fetch(`${local.url}/sdapi/v1/img2img`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${local.key}` },
        body: JSON.stringify({ ...body, prompt: 'a blue car', width: 64, height: 64, seed: 4 }),
      })
      const { images } = (await response.json()) as { images: string[] }
      const file = Buffer.from(images[0]!, 'base64')
      expect(await measureDifference(file, kept!)).toBeLessThan(0.5 * (await measureDifference(file, painted!)))
    })

    test('that is damaged is refused with an explanation, and nothing is charged', async () => {
      const file = new File([image.subarray(0, image.length >> 1)], 'image.png')
      const edit = client.images.edit({ image: file, prompt: 'a cat', size: '256x256' })
      await expect(edit).rejects.toThrow(/400.*image: the file is damaged/)
    })
  })

  test('refuses an invalid key and, on request, an unavailable size, as the error classes of the official client', async () => {
    await expect(
      new OpenAI({ baseURL: `${local.url}/v1`, apiKey: 'oct_x', maxRetries: 0 }).models.list(),
    ).rejects.toBeInstanceOf(OpenAI.AuthenticationError)
    await expect(generate({ size: '65x64', strict: true })).rejects.toThrow(/size is "65x64"/)
  })
})
