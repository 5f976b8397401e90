// Byte-for-byte comparison of each image with the first image of the same request.
import { createHash } from 'node:crypto'
import { compareDifferences, psnr, readPixels } from '../../receipts/compare-images.ts'

/**
 * The image file of a job. `request`: index of the request. `seconds`: time from the start of the load to the end of the job.
 * `previous`: ID and outcome of the last job that ended before it.
 */
export type GeneratedImage = { request: number; job: string; seconds: number; previous: string; file: Uint8Array }

/** An image that differs from the first image of its request. `psnr`: in dB. `share`: fraction of 8-bit values that differ. */
export type Unequal = Omit<GeneratedImage, 'file'> & { psnr: number; share: number }

const digestOf = (file: Uint8Array) => createHash('sha256').update(file).digest('hex')

export class Images {
  readonly #first = new Map<number, Uint8Array>()
  /** Image count per digest, per request. */
  readonly #kinds = new Map<number, Map<string, number>>()
  /** Number of repeats identical to the first image. */
  equal = 0
  readonly unequal: Unequal[] = []

  async add({ file, ...about }: GeneratedImage): Promise<void> {
    const { request } = about
    const kinds = this.#kinds.get(request) ?? new Map<string, number>()
    this.#kinds.set(request, kinds)
    const digest = digestOf(file)
    kinds.set(digest, (kinds.get(digest) ?? 0) + 1)
    const first = this.#first.get(request)
    if (!first) this.#first.set(request, file)
    else if (Buffer.compare(first, file) === 0) this.equal += 1
    else this.unequal.push({ ...about, ...(await compare(first, file)) })
  }

  /** Image counts of the distinct images of a request, largest first. */
  kindsOf(request: number): number[] {
    return [...(this.#kinds.get(request)?.values() ?? [])].sort((a, b) => b - a)
  }
}

async function compare(a: Uint8Array, b: Uint8Array): Promise<Pick<Unequal, 'psnr' | 'share'>> {
  try {
    const [expected, given] = [await readPixels(a), await readPixels(b)]
    return { psnr: psnr(given, expected), share: compareDifferences(given, expected).share }
  } catch {
    // The file is not an image, or the sizes differ.
    return { psnr: Number.NaN, share: 1 }
  }
}
