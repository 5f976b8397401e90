// Compares each image byte for byte with the first image of its request.
import { createHash } from 'node:crypto'
import { differences, psnr, readPixels } from '../../receipts/compare-images.ts'

/**
 * An image file of a job. `request`: index of its request. `seconds`: from the start of the load to the end of the job. `previous`: the job that
 * ended before it, and how.
 */
export type Made = { request: number; job: string; seconds: number; previous: string; file: Uint8Array }

/** An image that differs from the first one of its request: PSNR in dB, and the share of differing 8-bit values. */
export type Unequal = Omit<Made, 'file'> & { psnr: number; share: number }

const digestOf = (file: Uint8Array) => createHash('sha256').update(file).digest('hex')

export class Images {
  readonly #first = new Map<number, Uint8Array>()
  /** Number of images by digest, for each request. */
  readonly #kinds = new Map<number, Map<string, number>>()
  /** Number of repeats that equal the first image. */
  equal = 0
  readonly unequal: Unequal[] = []

  async add({ file, ...about }: Made): Promise<void> {
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

  /** Number of equal images of each kind that the request has, most frequent first. */
  kindsOf(request: number): number[] {
    return [...(this.#kinds.get(request)?.values() ?? [])].sort((a, b) => b - a)
  }
}

async function compare(a: Uint8Array, b: Uint8Array): Promise<Pick<Unequal, 'psnr' | 'share'>> {
  try {
    const [expected, given] = [await readPixels(a), await readPixels(b)]
    return { psnr: psnr(given, expected), share: differences(given, expected).share }
  } catch {
    // A file that is not an image, or an image of another size.
    return { psnr: Number.NaN, share: 1 }
  }
}
