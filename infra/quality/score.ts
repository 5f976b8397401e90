// The score of a configuration's images.
import path from 'node:path'
import { median } from '../bench/statistics.ts'
import { psnr, readPixels } from '../receipts/compare-images.ts'
import { type Detection, type Judge, judge, type Verdict } from './judge.ts'
import type { QualityPrompt } from './prompts.ts'
import type { Configuration, Run } from './runs.ts'
import { ssim } from './structural-similarity.ts'

export type Judged = Verdict & { file: string; seen: Detection; psnr: number | null; ssim: number | null }

/** Accuracies are fractions. PSNR (dB) and SSIM are means relative to float32 of the same model and seed; null for float32 itself. */
export type Score = {
  configuration: Configuration
  images: number
  sprite: number
  clear: number
  background: number
  count: number
  /** Accuracy of the main sprite on simple prompts. */
  simpleSprite: number
  psnr: number | null
  ssim: number | null
  /** Median per image. */
  seconds: number
  peakMegabytes: number
}

/** The PSNR assigned to equal images, so that means are finite. */
export const SAME_PSNR = 100

/** Judges `0.png` and so on in a directory, and compares each with the image of the same name in `reference`. */
export async function judgeImages(
  { detect }: Judge,
  prompts: readonly QualityPrompt[],
  directory: string,
  reference: string | null,
): Promise<Judged[]> {
  const judged: Judged[] = []
  for (const [i, prompt] of prompts.entries()) {
    const file = path.join(directory, `${i}.png`)
    const image = await readPixels(file)
    const seen = await detect(image)
    const original = reference && (await readPixels(path.join(reference, `${i}.png`)))
    const likeness = original
      ? { psnr: Math.min(SAME_PSNR, psnr(image, original)), ssim: ssim(image, original) }
      : { psnr: null, ssim: null }
    judged.push({ file, seen, ...judge(prompt, seen), ...likeness })
  }
  return judged
}

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length

export function score(
  configuration: Configuration,
  prompts: readonly QualityPrompt[],
  judged: readonly Judged[],
  runs: readonly Run[],
): Score {
  const share = (what: keyof Verdict, of = judged) => mean(of.map((each) => Number(each[what])))
  const meanOf = (what: 'psnr' | 'ssim') => {
    const values = judged.flatMap((each) => each[what] ?? [])
    return values.length > 0 ? mean(values) : null
  }
  return {
    configuration,
    images: judged.length,
    ...{ sprite: share('sprite'), clear: share('clear'), background: share('background'), count: share('count') },
    simpleSprite: share(
      'sprite',
      judged.filter((_, i) => prompts[i]!.simple),
    ),
    ...{ psnr: meanOf('psnr'), ssim: meanOf('ssim') },
    seconds: median(runs.map(({ seconds }) => seconds)),
    peakMegabytes: Math.max(...runs.map(({ peakBytes }) => peakBytes)) / 1e6,
  }
}
