import { crc32, deflateSync } from 'node:zlib'
import sharp, { type Sharp } from 'sharp'
import { describe, expect, test } from 'vitest'
import { LIMITS } from '../../../../gpu-fn/contract.ts'
import { decodeInput, InputError, type InputRequest } from '../../../../gpu-fn/pipeline/input/input-image.ts'

const SIZE = { width: 32, height: 16 }
const COLOR = { r: 128, g: 64, b: 32 }
const createPlainImage = (width = 40, height = 20) =>
  sharp({ create: { width, height, channels: 3, background: COLOR } })

const decode = (image: Uint8Array, request: Partial<InputRequest> = {}, mask?: Uint8Array) =>
  decodeInput({ image, ...(mask && { mask }) }, { ...SIZE, ...request })

/** A PNG of red, green and blue values. */
const pngOf = (width: number, height: number, color: (x: number, y: number) => readonly [number, number, number]) =>
  sharp(
    Uint8Array.from(Array.from({ length: width * height }, (_, i) => color(i % width, Math.floor(i / width))).flat()),
    { raw: { width, height, channels: 3 } },
  )

describe('decodes to 8-bit sRGB', () => {
  const files: [name: string, file: () => Promise<Buffer>][] = [
    ['PNG', () => createPlainImage().png().toBuffer()],
    ['PNG with a palette', () => createPlainImage().png({ palette: true }).toBuffer()],
    ['PNG of 16 bits', () => createPlainImage().toColourspace('rgb16').png().toBuffer()],
    ['interlaced PNG', () => createPlainImage().png({ progressive: true }).toBuffer()],
    ['PNG in Display P3', () => createPlainImage().withIccProfile('p3').png().toBuffer()],
    ['JPEG', () => createPlainImage().jpeg({ quality: 100 }).toBuffer()],
    ['progressive JPEG', () => createPlainImage().jpeg({ progressive: true, quality: 100 }).toBuffer()],
    ['WebP', () => createPlainImage().webp({ lossless: true }).toBuffer()],
    ['GIF', () => createPlainImage().gif().toBuffer()],
    ['AVIF', () => createPlainImage().avif({ lossless: true }).toBuffer()],
  ]
  test.each(files)('a %s', async (_, file) => {
    const { pixels, mask, warnings } = await decode(await file())
    expect([pixels.length, mask, warnings]).toEqual([3 * 32 * 16, null, []])
    for (const [k, value] of [COLOR.r, COLOR.g, COLOR.b].entries())
      expect(Math.abs(pixels[300 + k]! - value)).toBeLessThanOrEqual(4)
  })

  test('a CMYK JPEG, by its profile or the default press profile', async () => {
    const { pixels } = await decode(await createPlainImage().toColourspace('cmyk').jpeg().toBuffer())
    expect(pixels[0]! - pixels[2]!).toBeGreaterThan(60)
  })

  test.each(['b-w', 'grey16'])('grayscale in color space %s', async (space) => {
    const gray = sharp({ create: { width: 8, height: 8, channels: 3, background: '#808080' } })
    const { pixels } = await decode(await gray.toColourspace(space).png().toBuffer())
    expect([...pixels.subarray(0, 3)]).toEqual([128, 128, 128])
  })

  test('transparent parts as white', async () => {
    const clear = sharp({ create: { width: 8, height: 8, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0 } } })
    expect(new Set((await decode(await clear.png().toBuffer())).pixels)).toEqual(new Set([255]))
  })

  test('the first frame of an animation, with a warning', async () => {
    const frames = [0, 255].map((value) => Buffer.alloc(3 * 8 * 8, value))
    const raw = { raw: { width: 8, height: 16, channels: 3, pageHeight: 8 } } as const
    for (const format of ['gif', 'webp'] as const) {
      const file = await sharp(Buffer.concat(frames), raw)[format]().toBuffer()
      const { pixels, warnings } = await decode(file)
      expect([pixels[0]! < 8, warnings]).toEqual([true, ['The image has 2 frames; its first was used.']])
    }
  })
})

test.each([1, 2, 3, 4, 5, 6, 7, 8])('EXIF orientation %i', async (orientation) => {
  const upright = pngOf(32, 16, (x, y) => [8 * x, 16 * y, 0])
  // Stores the pixels so that the orientation turns them upright. sharp mirrors before it rotates.
  const stored = {
    ...{ 1: (s) => s, 2: (s) => s.flop(), 3: (s) => s.rotate(180), 4: (s) => s.flip() },
    ...{
      5: (s) => s.rotate(90).flip(),
      6: (s) => s.rotate(270),
      7: (s) => s.rotate(270).flip(),
      8: (s) => s.rotate(90),
    },
  } as Record<number, (image: Sharp) => Sharp>
  const turned = await stored[orientation]!(sharp(await upright.png().toBuffer()))
    .png()
    .toBuffer()
  const file = await sharp(turned).withMetadata({ orientation }).png().toBuffer()
  const { pixels } = await decode(file)
  const corner = (x: number, y: number) => [...pixels.subarray(3 * (y * 32 + x), 3 * (y * 32 + x) + 2)]
  expect([corner(0, 0), corner(31, 0), corner(0, 15)]).toEqual([
    [0, 0],
    [248, 0],
    [0, 240],
  ])
})

describe('fits another shape', () => {
  const halves = pngOf(64, 16, (x) => (x < 32 ? [255, 0, 0] : [0, 0, 255])).png()

  test('by cropping, by borders in the colors of its edge, or by stretching', async () => {
    const file = await halves.toBuffer()
    const [cut, padded, stretched] = await Promise.all(
      (['crop', 'pad', 'stretch'] as const).map((image_fit) => decode(file, { width: 16, height: 16, image_fit })),
    )
    expect([cut!.pixels[0], cut!.pixels[3 * 15 + 2]]).toEqual([255, 255])
    expect([padded!.pixels[0], padded!.pixels[3 * 15 * 16]]).toEqual([255, 255])
    expect(stretched!.pixels).toHaveLength(3 * 16 * 16)
  })

  test('with its mask, whose borders are repainted', async () => {
    const file = await halves.toBuffer()
    const mask = await pngOf(32, 8, (x) => (x < 16 ? [255, 255, 255] : [0, 0, 0]))
      .png()
      .toBuffer()
    const size = { width: 64, height: 64 }
    const { mask: padded } = await decode(file, { ...size, image_fit: 'pad' }, mask)
    expect([padded![0], padded![32 * 64], padded![32 * 64 + 63]]).toEqual([255, 255, 0])
    const { mask: black } = await decode(file, { ...size, image_fit: 'stretch', repaint: 'black' }, mask)
    expect([black![0], black![63]]).toEqual([0, 255])
  })
})

describe('the mask', () => {
  const half = (alpha: number) =>
    sharp(
      Uint8Array.from({ length: 32 * 16 * 4 }, (_, i) => (i % 4 === 3 && (i >> 2) % 32 < 16 ? alpha : 255)),
      {
        raw: { width: 32, height: 16, channels: 4 },
      },
    )
      .png()
      .toBuffer()

  test('is the transparent part of the image, or of the mask; an opaque image has none', async () => {
    const { mask } = await decode(await half(0), { repaint: 'transparent' })
    expect([mask![0], mask![31]]).toEqual([255, 0])
    const other = await decode(await createPlainImage().png().toBuffer(), { repaint: 'transparent' }, await half(0))
    expect([other.mask![0], other.mask![31]]).toEqual([255, 0])
    expect((await decode(await half(255), { repaint: 'transparent' })).mask).toBeNull()
  })

  test('has a soft edge with a feather', async () => {
    const { mask, soft } = await decode(await half(0), { repaint: 'transparent', mask_feather: 3 })
    expect(soft).toBe(true)
    expect(new Set(mask!.subarray(0, 32)).size).toBeGreaterThan(6)
  })
})

/** A small PNG file with these dimensions in its header. */
function createDecompressionBomb(width: number, height: number): Uint8Array {
  const createChunk = (type: string, data: Uint8Array) => {
    const head = Buffer.alloc(8)
    head.writeUInt32BE(data.length)
    head.write(type, 4)
    const crc = Buffer.alloc(4)
    crc.writeUInt32BE(crc32(Buffer.concat([head.subarray(4), data])))
    return Buffer.concat([head, data, crc])
  }
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width)
  header.writeUInt32BE(height, 4)
  header.set([8, 2], 8)
  const data = deflateSync(Buffer.alloc(1_000_000))
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  return Buffer.concat([
    signature,
    createChunk('IHDR', header),
    createChunk('IDAT', data),
    createChunk('IEND', new Uint8Array()),
  ])
}

describe('refuses', () => {
  test.each([
    ['SVG', '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', /SVG, XML or HTML; allowed: PNG/],
    ['SVG after a declaration', '\ufeff  <?xml version="1.0"?><svg/>', /SVG, XML or HTML/],
    ['PDF', '%PDF-1.7', /PDF/],
    ['text', 'hello', /of an unknown type/],
    ['nothing', '', /of an unknown type/],
    ['a bare signature', '\x89PNG\r\n\x1a\n', /damaged/],
    ['HEIC', '\0\0\0\x18ftypheic\0\0\0\0mif1heic', /HEIC or a video/],
  ])('%s', async (_, text, message) => {
    await expect(decode(Buffer.from(text, text.startsWith('\ufeff') ? 'utf8' : 'latin1'))).rejects.toThrow(message)
  })

  test('TIFF, by name', async () => {
    await expect(decode(await createPlainImage().tiff().toBuffer())).rejects.toThrow(/image: the file is TIFF/)
  })

  test('more pixels than a result may have, before decoding any', async () => {
    for (const [width, height] of [
      [65_000, 65_000],
      [2 ** 31 - 1, 1],
      [6145, 6145],
    ] as const) {
      const before = process.memoryUsage().rss
      await expect(decode(createDecompressionBomb(width, height))).rejects.toBeInstanceOf(InputError)
      expect(process.memoryUsage().rss - before).toBeLessThan(64 * 2 ** 20)
    }
    const thin = await createPlainImage(16_000, 1).png().toBuffer()
    expect((await decode(thin)).pixels).toHaveLength(3 * 32 * 16)
  })
})

/** Hundreds of damaged files; `OCTET_HOSTILE_UPLOADS=20000` for a long run. */
const UPLOADS = Number(process.env.OCTET_HOSTILE_UPLOADS ?? 300)

test(`${UPLOADS} damaged files are decoded or refused, in bounded memory`, async () => {
  const noise = pngOf(48, 32, (x, y) => [(x * 37 + y * 91) % 256, (x * y) % 256, (x ^ y) % 256])
  const source = await noise.png().toBuffer()
  const from = (pages = 1) => sharp(source, { pages })
  const seeds = await Promise.all([
    ...[
      from().png().toBuffer(),
      from().png({ progressive: true }).toBuffer(),
      from().png({ palette: true }).toBuffer(),
    ],
    ...[
      from().jpeg().toBuffer(),
      from().jpeg({ progressive: true }).toBuffer(),
      from().toColourspace('cmyk').jpeg().toBuffer(),
    ],
    ...[
      from().webp().toBuffer(),
      from().webp({ lossless: true }).toBuffer(),
      from().gif().toBuffer(),
      from().avif().toBuffer(),
    ],
    from().withIccProfile('p3').withMetadata({ orientation: 6 }).jpeg().toBuffer(),
  ])
  let state = 7
  const random = (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return (state >>> 8) % below
  }
  const before = process.memoryUsage().rss
  const outcomes = { decoded: 0, refused: 0 }
  for (let i = 0; i < UPLOADS; i++) {
    const file = Buffer.from(seeds[random(seeds.length)]!)
    for (let change = random(4); change >= 0; change--) file[random(random(3) === 0 ? file.length : 64)] = random(256)
    const cut = random(3) === 0 ? file.subarray(0, random(file.length)) : file
    const mask = random(4) === 0 ? cut : undefined
    try {
      const { pixels } = await decode(cut, { image_fit: (['crop', 'pad', 'stretch'] as const)[random(3)]! }, mask)
      expect(pixels).toHaveLength(3 * 32 * 16)
      outcomes.decoded++
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      expect(error.message).toMatch(/^(image|mask): /)
      outcomes.refused++
    }
  }
  expect(outcomes.decoded).toBeGreaterThan(UPLOADS / 20)
  expect(outcomes.refused).toBeGreaterThan(UPLOADS / 5)
  expect(process.memoryUsage().rss - before).toBeLessThan(512 * 2 ** 20)
}, 600_000)

test('the pixel limit admits every result', () => {
  expect(LIMITS.inputPixels).toBeGreaterThanOrEqual(LIMITS.side.max ** 2)
})
