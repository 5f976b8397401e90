// Decodes the input files of a request to pixels of the result's size. Files come from outside: their kind and dimensions are checked before
// any pixel is decoded.
import sharp, { type Sharp } from 'sharp'
import { describeKind, type JobInput, type JobRequest, LIMITS } from '../../contract.ts'
import type { ControlImage } from '../control.ts'
import type { Size } from '../pipeline.ts'
import { type Box, fitBox, scaleCut } from './image-fit.ts'
import { type Raster, resample } from './resample.ts'
import type { InputImage } from './start.ts'

export type InputFiles = Partial<Record<JobInput['name'], Uint8Array>>
export type InputRequest = Pick<JobRequest, 'width' | 'height' | 'image_fit' | 'repaint' | 'mask_feather'>
export type DecodedInput = InputImage & { /** Remarks for the caller, in sentences. */ warnings: string[] }

/** The file cannot be used; the message is for the caller. */
export class InputError extends Error {
  override name = 'InputError' as const
}

// Blocks libvips' decoders of all other formats, such as SVG, because the first bytes of an untrusted file select the decoder.
sharp.block({ operation: ['VipsForeignLoad'] })
sharp.unblock({
  operation: ['Png', 'Jpeg', 'Webp', 'Nsgif', 'Heif'].map((format) => `VipsForeignLoad${format}`),
})

const DECODE_SECONDS = 20
/** Truncated and damaged files are errors; decoder warnings are not. */
const OPTIONS = { failOn: 'error', limitInputPixels: LIMITS.inputPixels, pages: 1, sequentialRead: true } as const
const WHITE = '#ffffff'
const BLACK = '#000000'
const HALF = 128

/**
 * The image, upright, in sRGB with 8 bits and on white, and its mask, both fitted to width × height. An animated image is its first frame.
 * Throws InputError.
 */
export async function decodeInput({ image, mask }: InputFiles, request: InputRequest): Promise<DecodedInput> {
  if (!image) throw new InputError('the request has no image')
  const opened = await openFile('image', image)
  const { width, height, image_fit: fit = 'crop', repaint = 'white', mask_feather: feather = 0 } = request
  const box = fitBox(opened, { width, height }, fit)
  const { pixels, warnings } = await decodePixels(opened, box)
  const source = mask ? await openFile('mask', mask) : repaint === 'transparent' ? opened : null
  if (!source) return { pixels, mask: null, soft: false, warnings }
  const hard = await decodeMask(source, scaleCut(box, opened, source), repaint)
  // An image without transparent parts has no mask of its own.
  if (!mask && !hard.data.includes(255)) return { pixels, mask: null, soft: false, warnings }
  return { pixels, mask: await blur(hard, feather), soft: feather > 0, warnings }
}

/** The control image, decoded and fitted as an input image. Throws InputError. */
export async function decodeControl(
  file: Uint8Array,
  { width, height, image_fit: fit = 'crop' }: InputRequest,
): Promise<ControlImage & { warnings: string[] }> {
  const opened = await openFile('control', file)
  const { pixels, warnings } = await decodePixels(opened, fitBox(opened, { width, height }, fit))
  return { pixels, warnings }
}

/** The image, upright, in sRGB with 8 bits and on white. */
async function decodePixels(opened: OpenedImage, box: Box): Promise<{ pixels: Uint8Array; warnings: string[] }> {
  const { name, frames } = opened
  const warnings = frames > 1 ? [`The ${name} has ${frames} frames; its first was used.`] : []
  const onWhite = (file: Sharp) => file.flatten({ background: WHITE }).toColourspace('srgb')
  const { data: pixels } = await extend(await place(opened, box, onWhite, 3), box, 'copy')
  return { pixels, warnings }
}

type OpenedImage = Size & {
  name: string /** A new pipeline over the upright image. */
  read: () => Sharp
  frames: number
}

/** Reads the header. Throws InputError for a kind or size that is not supported. */
async function openFile(name: string, file: Uint8Array): Promise<OpenedImage> {
  const problem = describeKind(file)
  if (problem) throw new InputError(`${name}: ${problem}`)
  const {
    width,
    height,
    orientation = 1,
    pages: frames = 1,
  } = await attempt(name, () => sharp(file, OPTIONS).metadata())
  if (width * height > LIMITS.inputPixels)
    throw new InputError(
      `${name}: the image has ${width}x${height} pixels; at most ${LIMITS.inputPixels} are allowed, such as 6144x6144`,
    )
  const size = orientation >= 5 ? { width: height, height: width } : { width, height }
  return { name, ...size, frames, read: () => sharp(file, OPTIONS).autoOrient().timeout({ seconds: DECODE_SECONDS }) }
}

/** Cuts, converts with `convert`, and resizes. */
async function place(
  { name, read }: OpenedImage,
  { cut, scaled }: Box,
  convert: (file: Sharp) => Sharp,
  channels: number,
): Promise<Raster> {
  const part = cut ? read().extract(cut) : read()
  const { data, info } = await attempt(name, () =>
    convert(part).raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true }),
  )
  if (info.channels !== channels) throw new Error(`the ${name} was decoded to ${info.channels} channels`)
  return resample({ data, width: info.width, height: info.height, channels }, scaled)
}

/** Adds the box's border in white, or in the colors of the image's edge. */
async function extend(image: Raster, { border }: Box, fill: 'copy' | 'white'): Promise<Raster> {
  if (!border) return image
  const extended = toSharp(image).extend(
    fill === 'copy' ? { ...border, extendWith: 'copy' } : { ...border, background: WHITE },
  )
  const width = image.width + border.left + border.right
  return { ...image, width, height: image.height + border.top + border.bottom, data: await rawOf(extended, image) }
}

const toSharp = ({ data, width, height, channels }: Raster) =>
  sharp(data, { raw: { width, height, channels: channels as 1 | 3 } })

const rawOf = (image: Sharp, { channels }: Raster) =>
  image
    .toColourspace(channels === 1 ? 'b-w' : 'srgb')
    .raw()
    .toBuffer()

/** The share of each pixel to repaint, 0 or 255; borders around the image are repainted. */
async function decodeMask(mask: OpenedImage, box: Box, repaint: NonNullable<InputRequest['repaint']>): Promise<Raster> {
  const gray = await place(mask, box, (file) => toGray(file, repaint), 1)
  const shares = gray.data.map((value) => ((repaint === 'white' ? value : 255 - value) >= HALF ? 255 : 0))
  return extend({ ...gray, data: shares }, box, 'white')
}

/** One channel. In a mask of light and dark, transparent parts are not repainted. */
function toGray(mask: Sharp, repaint: NonNullable<InputRequest['repaint']>): Sharp {
  if (repaint === 'transparent') return mask.ensureAlpha().extractChannel('alpha').toColourspace('b-w')
  return mask.flatten({ background: repaint === 'white' ? BLACK : WHITE }).toColourspace('b-w')
}

async function blur(mask: Raster, deviation: number): Promise<Uint8Array> {
  // libvips supports deviations from 0.3.
  return deviation < 0.3 ? mask.data : rawOf(toSharp(mask).blur(deviation), mask)
}

async function attempt<T>(name: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (cause) {
    if (cause instanceof Error && /pixel limit/i.test(cause.message))
      throw new InputError(`${name}: the image has more than ${LIMITS.inputPixels} pixels, the limit`, { cause })
    throw new InputError(`${name}: the file is damaged or of an unsupported variant`, { cause })
  }
}
