// Overlapping tiles of an image or a latent, and their blending.
import type { Tensor } from '../runtime/session.ts'

/** Latents that neighboring tiles share: half as context for the convolutions, half for blending. */
const OVERLAP = 16

/** A part of one axis. `before` and `after`: whether it is blended with a neighbor at its start and at its end. */
export type Span = Range & { before: boolean; after: boolean }
export type Range = { start: number; end: number }

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
export function crop({ data, dims }: Tensor, rows: Range, columns: Range): Tensor {
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

/** Planes [C, height, width] under construction. */
export type Canvas = {
  planes: Float32Array
  weights: Float32Array
  channels: number
  height: number
  width: number
}

export const newCanvas = (channels: number, height: number, width: number): Canvas => ({
  ...{ planes: new Float32Array(channels * height * width), weights: new Float32Array(height * width) },
  ...{ channels, height, width },
})

/** Adds a tile [1, C, h, w], times its blending weights, at the rows and columns `rows` × `scale` and `columns` × `scale`. */
export function paint(canvas: Canvas, image: Tensor, rows: Span, columns: Span, scale: number): void {
  const { planes, weights, channels, height, width } = canvas
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
      for (let channel = 0; channel < channels; channel++)
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

/** The planes, once all tiles are painted. */
export function finish({ planes, weights }: Canvas): Float32Array {
  for (let i = 0; i < planes.length; i++) planes[i]! /= weights[i % weights.length]!
  return planes
}
