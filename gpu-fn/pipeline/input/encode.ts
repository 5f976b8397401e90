// Encodes pixels to the distribution of their latent, in one piece or in overlapping, blended tiles.
import type { Session, Tensor } from '../../runtime/session.ts'
import { assertFinite } from '../non-finite.ts'
import { type Canvas, crop, finish, newCanvas, paint, type Span, spansOf } from '../tiles.ts'

/** Mean and standard deviation of a latent [C, h, w]. */
export type LatentDistribution = { mean: Float32Array; deviation: Float32Array }

/** The value of a byte of a pixel. */
export type ToValue = (byte: number) => number
/** -1 to 1. diffusers image_processor.py `VaeImageProcessor.normalize` */
const computeSignedValue: ToValue = (byte) => 2 * Math.fround(byte / 255) - 1

type EncodeOptions = {
  tile: number | null
  downsample: number
  /** -1 to 1 by default. */
  toValue?: ToValue
  signal?: AbortSignal
}

/**
 * Encodes interleaved 8-bit RGB [H, W, 3] for a latent of `dims` [1, C, h, w], in tiles of `tile` × `tile` latents or in one piece. Throws
 * if the model produces NaN or infinity.
 */
export async function encodePixels(
  encoder: Session,
  pixels: Uint8Array,
  dims: readonly number[],
  { tile, downsample, toValue = computeSignedValue, signal }: EncodeOptions,
): Promise<LatentDistribution> {
  const [, channels, h, w] = dims as [number, number, number, number]
  const image = toTensor(pixels, h * downsample, w * downsample, toValue)
  const canvases = { mean: newCanvas(channels, h, w), deviation: newCanvas(channels, h, w) }
  for (const rows of spansOf(h, tile ?? h)) {
    for (const columns of spansOf(w, tile ?? w)) {
      const part = crop(image, scale(rows, downsample), scale(columns, downsample))
      const outputs = await encoder.run({ image: part }, { signal })
      for (const [name, canvas] of Object.entries(canvases)) paint(canvas, outputs[name]!, rows, columns, 1)
    }
  }
  return { mean: finishFinite(canvases.mean), deviation: finishFinite(canvases.deviation) }
}

const scale = ({ start, end }: Span, factor: number) => ({ start: start * factor, end: end * factor })

function finishFinite(canvas: Canvas): Float32Array {
  const data = finish(canvas)
  assertFinite(data, 'the encoded image')
  return data
}

/** Planes [1, 3, height, width] of the values of bytes. */
function toTensor(pixels: Uint8Array, height: number, width: number, toValue: ToValue): Tensor {
  const area = height * width
  const values = Float32Array.from({ length: 256 }, (_, byte) => toValue(byte))
  const data = new Float32Array(3 * area)
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < area; i++) data[channel * area + i] = values[pixels[3 * i + channel]!]!
  }
  return { data, dims: [1, 3, height, width] }
}
