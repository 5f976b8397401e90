// Duration and size of PNG encoding, against sharp.
import path from 'node:path'
import sharp from 'sharp'
import { encodePng } from '../../gpu-fn/pipeline/png.ts'
import { ROOT } from '../local/models/package-cache.ts'
import { median } from './statistics.ts'

export type PngBenchOptions = { runs: number }

const SIDE = 1024

/** Prints milliseconds and bytes for each image, scaled to 1024 × 1024; the images of the model card by default. */
export async function benchPng(files: string[], { runs }: PngBenchOptions): Promise<void> {
  for (const file of files.length > 0 ? files : [path.join(ROOT, 'docs/nano.jpg')]) {
    const picture = sharp(file).removeAlpha().toColorspace('srgb').resize(SIDE, SIDE)
    const pixels = await picture.raw().toBuffer()
    const raw = { raw: { width: SIDE, height: SIDE, channels: 3 as const } }
    const ways = {
      'Octet, with XMP': () => encodePng(pixels, SIDE, SIDE, '<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'),
      'sharp, compression level 1': () => sharp(pixels, raw).png({ compressionLevel: 1 }).toBuffer(),
      'sharp, compression level 3': () => sharp(pixels, raw).png({ compressionLevel: 3 }).toBuffer(),
    }
    for (const [way, make] of Object.entries(ways)) {
      const times: number[] = []
      let bytes = 0
      for (let i = 0; i < runs; i++) {
        const start = performance.now()
        bytes = (await make()).length
        times.push(performance.now() - start)
      }
      console.log(`${path.basename(file)}: ${way}: ${median(times).toFixed(1)} ms, ${bytes} bytes`)
    }
  }
}
