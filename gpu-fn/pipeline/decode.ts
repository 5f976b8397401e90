// Decodes latents to pixels, in one piece or in overlapping, blended tiles, which take a fraction of the memory.

import type { Session, Tensor } from '../runtime/session.ts'
import { toPixels } from './image.ts'
import { NonFiniteError } from './non-finite.ts'
import { type Canvas, crop, finish, newCanvas, paint, spansOf } from './tiles.ts'

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
      canvas ??= newCanvas(3, h * scale, w * scale)
      paint(canvas, image, rows, columns, scale)
    }
  }
  return toPixels(finish(canvas!), canvas!.width, canvas!.height)
}

async function decodeWhole(decoder: Session, latent: Tensor, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const { pixels, sum } = await decoder.run({ latent }, { signal, only: ['pixels', 'sum'] })
  if (!Number.isFinite(sum!.data[0])) throw new NonFiniteError('the decoded image')
  return pixels!.data as Uint8Array
}
