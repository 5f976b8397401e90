// Pillow's Lanczos resampling, bit for bit, because diffusers resizes input images with it. Pillow src/libImaging/Resample.c
// `ImagingResample` for 8-bit channels.
import { setImmediate } from 'node:timers/promises'
import type { Size } from '../pipeline.ts'

/** Interleaved 8-bit values [height, width, channels]. */
export type Raster = Size & { data: Uint8Array; channels: number }

const SUPPORT = 3
const PRECISION_BITS = 22
/** Number of output values before the event loop gets a turn: some milliseconds of work. */
const VALUES_AT_A_TIME = 2 ** 16

/** Resizes to `size`: along rows, then along columns, each if its length changes. Does not block the event loop. */
export async function resample(image: Raster, { width, height }: Size): Promise<Raster> {
  const { channels } = image
  const stride = image.width * channels
  const wide = await resampleAxis(
    image.data,
    { length: image.width, step: channels, lines: image.height, stride },
    width,
    channels,
  )
  const row = width * channels
  const data = await resampleAxis(wide, { length: image.height, step: row, lines: 1, stride: 0 }, height, row)
  return { data, width, height, channels }
}

/** In each of `lines` lines, which are `stride` values apart, `length` positions that are `step` values apart. */
type Axis = { length: number; step: number; lines: number; stride: number }

/** Resizes an axis to `size` positions of `inner` values each. */
async function resampleAxis(data: Uint8Array, axis: Axis, size: number, inner: number): Promise<Uint8Array> {
  const { length, step, lines, stride } = axis
  if (size === length) return data
  const windows = windowsOf(length, size)
  const result = new Uint8ClampedArray(lines * size * inner)
  let values = 0
  for (let line = 0; line < lines; line++) {
    for (const [position, { start, weights }] of windows.entries()) {
      const from = line * stride + start * step
      const to = (line * size + position) * inner
      for (let i = 0; i < inner; i++) {
        let sum = 1 << (PRECISION_BITS - 1)
        for (let tap = 0; tap < weights.length; tap++) sum += data[from + tap * step + i]! * weights[tap]!
        result[to + i] = sum >> PRECISION_BITS
      }
      values += inner
      if (values < VALUES_AT_A_TIME) continue
      values = 0
      await setImmediate()
    }
  }
  return new Uint8Array(result.buffer)
}

/** For each of `size` results, the positions of `length` that it reads, and their weights in fixed point. */
function windowsOf(length: number, size: number): { start: number; weights: Int32Array }[] {
  const scale = length / size
  const spread = Math.max(1, scale)
  return Array.from({ length: size }, (_, i) => {
    const center = (i + 0.5) * scale
    const start = Math.max(0, Math.trunc(center - SUPPORT * spread + 0.5))
    const end = Math.min(length, Math.trunc(center + SUPPORT * spread + 0.5))
    const taps = Array.from({ length: end - start }, (_, tap) => lanczos((start + tap - center + 0.5) * (1 / spread)))
    const sum = taps.reduce((total, tap) => total + tap, 0)
    const fixed = taps.map((tap) => (tap / sum) * 2 ** PRECISION_BITS)
    return { start, weights: Int32Array.from(fixed, (tap) => Math.trunc(tap < 0 ? tap - 0.5 : tap + 0.5)) }
  })
}

const lanczos = (x: number) => (x >= -SUPPORT && x < SUPPORT ? sinc(x) * sinc(x / SUPPORT) : 0)
const sinc = (x: number) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI))
