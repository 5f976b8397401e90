// The placement of an image of one shape in a result of another.
import type { JobRequest } from '../../contract.ts'
import type { Size } from '../pipeline.ts'

export type Box = {
  /**
   * The part of the image to use; absent for the whole image. Cut before the scaling, so that the scaled image is not larger than the
   * result.
   */
  cut?: Size & { left: number; top: number }
  /** The size to which that part is scaled. */
  scaled: Size
  /** Pixels to add at each side of the scaled part. */
  border?: { left: number; top: number; right: number; bottom: number }
}

/** `crop` fills the result and crops the excess, `pad` shows the whole image with borders, both centered; `stretch` changes its shape. */
export function fitBox(image: Size, result: Size, fit: NonNullable<JobRequest['image_fit']>): Box {
  const { width, height } = result
  const sameShape = image.width * height === image.height * width
  if (fit === 'stretch' || sameShape) return { scaled: { width, height } }
  if (fit === 'crop') {
    const cut = {
      width: Math.max(1, Math.min(image.width, Math.round((image.height * width) / height))),
      height: Math.max(1, Math.min(image.height, Math.round((image.width * height) / width))),
    }
    return {
      cut: { ...cut, left: (image.width - cut.width) >> 1, top: (image.height - cut.height) >> 1 },
      scaled: result,
    }
  }
  const ratio = Math.min(width / image.width, height / image.height)
  const scaled = {
    width: Math.max(1, Math.round(image.width * ratio)),
    height: Math.max(1, Math.round(image.height * ratio)),
  }
  const [left, top] = [(width - scaled.width) >> 1, (height - scaled.height) >> 1]
  return { scaled, border: { left, top, right: width - scaled.width - left, bottom: height - scaled.height - top } }
}

/** The box for an image of another size with the same content, such as a mask. */
export function scaleCut({ cut, ...box }: Box, from: Size, to: Size): Box {
  if (!cut) return box
  const across = to.width / from.width
  const down = to.height / from.height
  const left = Math.min(to.width - 1, Math.round(cut.left * across))
  const top = Math.min(to.height - 1, Math.round(cut.top * down))
  const width = Math.max(1, Math.min(to.width - left, Math.round(cut.width * across)))
  const height = Math.max(1, Math.min(to.height - top, Math.round(cut.height * down)))
  return { ...box, cut: { left, top, width, height } }
}
