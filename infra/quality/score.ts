// What the images of one configuration come to.
import path from 'node:path'
import { median } from '../bench/statistics.ts'
import { psnr, readPixels } from '../receipts/compare-images.ts'
import { type Judge, judge, type Sight, type Verdict } from './judge.ts'
import type { QualityPrompt } from './prompts.ts'
import type { Configuration, Run } from './runs.ts'
import { ssim } from './structural-similarity.ts'

export type Judged = Verdict & { file: string; seen: Sight; psnr: number | null; ssim: number | null }

/** Accuracies are shares of 1; PSNR in dB and SSIM are means against float32 of the same model and seed, null for itself. */
export type Score = {
  configuration: Configuration
  images: number
  sprite: number
  clear: number
  background: number
  count: number
  /** Right main sprite on the prompts that are simple. */
  simpleSprite: number
  psnr: number | null
  ssim: number | null
  /** Median of an image. */
  seconds: number
  peakMegabytes: number
}

/** What stands for the PSNR of two images that are the same, so that a mean has a value. */
export const SAME_PSNR = 100

/** Judges `0.png` … of a directory, and compares each with the image of its name in `reference`. */
export async function judgeImages(
  { look }: Judge,
  prompts: readonly QualityPrompt[],
  directory: string,
  reference: string | null,
): Promise<Judged[]> {
  const judged: Judged[] = []
  for (const [i, prompt] of prompts.entries()) {
    const file = path.join(directory, `${i}.png`)
    const image = await readPixels(file)
    const seen = await look(image)
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
