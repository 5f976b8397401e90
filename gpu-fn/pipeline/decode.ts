// Decodes latents to pixels, in one piece or in overlapping, blended tiles, which take a fraction of the memory.

import type { Session, Tensor } from '../runtime/session.ts'
import { toPixels } from './image.ts'

/** Latents that neighboring tiles share: half as context for the convolutions, half for blending. */
const OVERLAP = 16

/**
 * Decodes a latent [1, C, h, w] to interleaved 8-bit RGB [H, W, 3]. Group norms use the statistics of each tile of `tile` × `tile` latents,
 * so that colors differ slightly from those of one piece, without a seam. Throws if the model produces NaN or infinity.
 */
export async function decodeLatent(
  decoder: Session,
  latent: Tensor,
  tile: number | null,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const [, , h, w] = latent.dims as [number, number, number, number]
  if (tile === null || (h <= tile && w <= tile)) return decodeWhole(decoder, latent, signal)
  let canvas: Canvas | undefined
  for (const rows of spansOf(h, tile)) {
    for (const columns of spansOf(w, tile)) {
      const image = (await decoder.run({ latent: crop(latent, rows, columns) }, { signal, only: ['image'] })).image!
      const scale = image.dims[2]! / (rows.end - rows.start)
      canvas ??= newCanvas(h * scale, w * scale)
      paint(canvas, image, rows, columns, scale)
    }
  }
  return toPixels(finish(canvas!), canvas!.width, canvas!.height)
}

async function decodeWhole(decoder: Session, latent: Tensor, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const { pixels, sum } = await decoder.run({ latent }, { signal, only: ['pixels', 'sum'] })
  if (!Number.isFinite(sum!.data[0])) throw new Error('the decoded image contains NaN or infinity')
  return pixels!.data as Uint8Array
}

/** From `start` to `end` along one axis; `before` and `after`: whether it is blended with a neighbor there. */
export type Span = { start: number; end: number; before: boolean; after: boolean }

/** The minimum number of evenly spaced spans of at most `tile` that cover `length` and overlap by `OVERLAP` or more. */
export function spansOf(length: number, tile: number): Span[] {
  if (length <= tile) return [{ start: 0, end: length, before: false, after: false }]
  const overlap = Math.min(OVERLAP, tile >> 1)
  const count = Math.ceil((length - overlap) / (tile - overlap))
  return Array.from({ length: count }, (_, i) => {
    const start = Math.round((i * (length - tile)) / (count - 1))
    return { start, end: start + tile, before: i > 0, after: i < count - 1 }
  })
}

/** Rows and columns of a tensor [1, C, h, w]. */
function crop({ data, dims }: Tensor, rows: Span, columns: Span): Tensor {
  const [, channels, h, w] = dims as [number, number, number, number]
  const [height, width] = [rows.end - rows.start, columns.end - columns.start]
  const part = new Float32Array(channels * height * width)
  for (let channel = 0; channel < channels; channel++) {
    for (let row = 0; row < height; row++) {
      const from = (channel * h + rows.start + row) * w + columns.start
      part.set((data as Float32Array).subarray(from, from + width), (channel * height + row) * width)
    }
  }
  return { data: part, dims: [1, channels, height, width] }
}

type Canvas = { planes: Float32Array; weights: Float32Array; height: number; width: number }

const newCanvas = (height: number, width: number): Canvas => ({
  ...{ planes: new Float32Array(3 * height * width), weights: new Float32Array(height * width), height, width },
})

function paint({ planes, weights, height, width }: Canvas, image: Tensor, rows: Span, columns: Span, scale: number) {
  const data = image.data as Float32Array
  const [, , tileHeight, tileWidth] = image.dims as [number, number, number, number]
  const down = blendWeights(rows, scale)
  const across = blendWeights(columns, scale)
  for (let y = 0; y < tileHeight; y++) {
    const at = (rows.start * scale + y) * width + columns.start * scale
    for (let x = 0; x < tileWidth; x++) {
      const weight = down[y]! * across[x]!
      if (weight === 0) continue
      weights[at + x]! += weight
      for (let channel = 0; channel < 3; channel++)
        planes[channel * height * width + at + x]! += weight * data[(channel * tileHeight + y) * tileWidth + x]!
    }
  }
}

/** Blending weights of a tile's pixels along one axis: 0 at an inner edge, rising to 1 at the end of the overlap. */
function blendWeights({ start, end, before, after }: Span, scale: number): Float32Array {
  const length = (end - start) * scale
  const ramp = Math.min(OVERLAP, (end - start) >> 1) * scale
  const rise = (distance: number) => Math.min(1, Math.max(0, (distance + 0.5 - ramp / 4) / (ramp / 2)))
  return Float32Array.from({ length }, (_, i) => (before ? rise(i) : 1) * (after ? rise(length - 1 - i) : 1))
}

function finish({ planes, weights }: Canvas): Float32Array {
  for (let i = 0; i < planes.length; i++) planes[i]! /= weights[i % weights.length]!
  return planes
}
