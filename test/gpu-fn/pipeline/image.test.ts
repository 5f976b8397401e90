import { createCipheriv } from 'node:crypto'
import sharp from 'sharp'
import { describe, expect, test } from 'vitest'
import { computeLargestImageBytes, describeOversize, LIMITS } from '../../../gpu-fn/contract.ts'
import { encodeImage, type GenerationParameters, readParameters, toPixels } from '../../../gpu-fn/pipeline/image.ts'

const FORMATS = ['png', 'jpeg', 'webp'] as const

const parameters: GenerationParameters = {
  prompt: 'a "red" heart & <b>stars</b> — 猫 😀',
  negative_prompt: 'blurry, ]]> low quality',
  seed: 4_294_967_295,
  steps: 28,
  guidance_scale: 4.5,
  width: 48,
  height: 32,
  text_convention: 'diffusers',
  model: 'large',
  tier: 'fp8',
  package: 'ab'.repeat(32),
  tool: 'octet 0.1.0',
}

/** A slope of red over x, of green over y, and blue in a corner. */
function createScene(): Float32Array {
  const { width, height } = parameters
  const createPlane = (at: (x: number, y: number) => number) =>
    Array.from({ length: width * height }, (_, i) => at(i % width, Math.floor(i / width)))
  return Float32Array.from([
    ...createPlane((x) => (2 * x) / width - 1),
    ...createPlane((_, y) => (2 * y) / height - 1),
    ...createPlane((x, y) => (x < 8 && y < 8 ? 1 : -1)),
  ])
}

describe('toPixels', () => {
  test('rounds half to even as torch and numpy do, clamps, and interleaves the planes', () => {
    // Before rounding: 0, 25.499998, 76.5, 127.5, 178.5, 254.49, 255
    const levels = [-1.2, -0.8, -0.4, 0, 0.4, 0.996, 7]
    const pixels = toPixels(Float32Array.from([...levels, ...levels, ...levels]), levels.length, 1)
    expect([...pixels].filter((_, i) => i % 3 === 0)).toEqual([0, 25, 76, 128, 178, 254, 255])
    expect([...toPixels(Float32Array.of(1, -1, 0), 1, 1)]).toEqual([255, 0, 128])
  })

  test('refuses NaN', () => {
    expect(() => toPixels(Float32Array.of(0, Number.NaN, 0), 1, 1)).toThrow('contains NaN')
  })
})

describe.each(FORMATS)('%s', (format) => {
  const pixels = toPixels(createScene(), parameters.width, parameters.height)
  const output = { format, quality: 90 }

  test('decodes to the original pixels', async () => {
    const file = await encodeImage(pixels, output, parameters)
    const { data, info } = await sharp(file).removeAlpha().raw().toBuffer({ resolveWithObject: true })
    expect(info).toMatchObject({ width: 48, height: 32, channels: 3 })
    const difference = data.reduce((sum, value, i) => sum + Math.abs(value - pixels[i]!), 0) / data.length
    if (format === 'png') expect(difference).toBe(0)
    else expect(difference).toBeLessThan(4)
  })

  test('contains its parameters', async () => {
    expect(await readParameters(await encodeImage(pixels, output, parameters))).toEqual(parameters)
  })

  test.each([
    ['control characters', 'a\u0000b\u0007\ud83d\ufffe\n\t"\\'],
    ['5,000 characters of Chinese', '猫'.repeat(5_000)],
    ['markup', '</octet:parameters><octet:parameters>{}</octet:parameters>&amp;&lt;'],
    ['nothing', ''],
  ])('contains prompts of %s', async (_, prompt) => {
    const given = { ...parameters, prompt, negative_prompt: prompt }
    expect(await readParameters(await encodeImage(pixels, output, given))).toEqual(given)
  })

  test('marks prompts as truncated to fit a JPEG segment', async () => {
    const given = { ...parameters, prompt: '&'.repeat(10_000), negative_prompt: '<'.repeat(10_000) }
    const read = await readParameters(await encodeImage(pixels, output, given))
    if (format === 'jpeg')
      expect(read).toEqual({ ...given, prompt: `${'&'.repeat(5_000)}…`, negative_prompt: `${'<'.repeat(5_000)}…` })
    else expect(read).toEqual(given)
  })

  test('truncates the prompts of individual encoders too', async () => {
    const given = { ...parameters, prompt_2: '\u0001'.repeat(10_000) }
    const read = await readParameters(await encodeImage(pixels, output, given))
    if (format === 'jpeg') expect(read).toEqual({ ...given, prompt_2: `${'\u0001'.repeat(5_000)}…` })
    else expect(read).toEqual(given)
  })

  test('omits prompts on request, and keeps the AI mark and other parameters', async () => {
    const { prompt: _, negative_prompt: __, ...others } = parameters
    const file = await encodeImage(pixels, output, others)
    expect(await readParameters(file)).toEqual(others)
    const { xmpAsString } = await sharp(file).metadata()
    expect(xmpAsString).toContain('digitalsourcetype/trainedAlgorithmicMedia')
    expect(xmpAsString).not.toMatch(/prompt/i)
  })

  test('is marked as created by a trained algorithm', async () => {
    const { xmpAsString } = await sharp(await encodeImage(pixels, output, parameters)).metadata()
    expect(xmpAsString).toContain('digitalsourcetype/trainedAlgorithmicMedia')
    const composite = await sharp(await encodeImage(pixels, { ...output, hasInput: true }, parameters)).metadata()
    expect(composite.xmpAsString).toContain('digitalsourcetype/compositeWithTrainedAlgorithmicMedia')
  })
})

test('PNG has the same bytes every time, for any quality', async () => {
  const pixels = toPixels(createScene(), parameters.width, parameters.height)
  const first = await encodeImage(pixels, { format: 'png', quality: 10 }, parameters)
  expect(Buffer.from(await encodeImage(pixels, { format: 'png', quality: 95 }, parameters)).equals(first)).toBe(true)
})

test('lower quality makes smaller files', async () => {
  const pixels = toPixels(createScene(), parameters.width, parameters.height)
  for (const format of ['jpeg', 'webp'] as const) {
    const [low, high] = await Promise.all(
      [20, 95].map((quality) => encodeImage(pixels, { format, quality }, parameters)),
    )
    expect(low!.length).toBeLessThan(high!.length)
  }
})

describe('file size', () => {
  /** Returns the worst case for file size: incompressible pixels, and prompts with the longest possible XMP encoding. */
  function createWorstCase(width: number, height: number) {
    const text = '\u0001'.repeat(LIMITS.promptCharacters)
    const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16))
    const pixels = new Uint8Array(cipher.update(Buffer.alloc(3 * width * height)))
    return { pixels, parameters: { ...parameters, width, height, prompt: text, negative_prompt: text } }
  }

  test.each([
    [16, 16],
    [16, 6144],
    [6144, 16],
    [1024, 768],
    // The largest square PNG that the contract allows.
    [4704, 4704],
  ])('a %ix%i PNG of noise is within the upper bound on its size', async (width, height) => {
    const { pixels, parameters } = createWorstCase(width, height)
    const bound = computeLargestImageBytes({ width, height, output_format: 'png' })
    expect(describeOversize({ width, height, output_format: 'png' })).toBeNull()
    expect(bound).toBeLessThanOrEqual(LIMITS.imageBytes)
    const file = await encodeImage(pixels, { format: 'png', quality: 90 }, parameters)
    expect(file.byteLength).toBeLessThanOrEqual(bound)
    // A loose bound would reject images that can be delivered.
    if (width * height > 1e6) expect(file.byteLength).toBeGreaterThan(0.98 * bound)
  })

  test.each(['jpeg', 'webp'] as const)('an oversized %s is encoded again at a lower quality', async (format) => {
    const { pixels, parameters } = createWorstCase(512, 512)
    const output = { format, quality: 100 }
    const whole = await encodeImage(pixels, output, parameters)
    const limit = Math.floor(whole.byteLength / 2)
    const smaller = await encodeImage(pixels, output, parameters, limit)
    expect(smaller.byteLength).toBeLessThanOrEqual(limit)
    expect(await sharp(smaller).metadata()).toMatchObject({ format, width: 512, height: 512 })
    await expect(encodeImage(pixels, output, parameters, 1_000)).rejects.toThrow('at quality 1; at most 1000')
    expect(computeLargestImageBytes({ width: 6144, height: 6144, output_format: format })).toBe(LIMITS.imageBytes)
  })
})

test('a file without parameters is read as such', async () => {
  const plain = await sharp({ create: { width: 2, height: 2, channels: 3, background: 'red' } })
    .png()
    .toBuffer()
  expect(await readParameters(plain)).toBeNull()
})
