// The score of a configuration's images.
import path from 'node:path'
import { median } from '../bench/statistics.ts'
import { psnr, readPixels } from '../receipts/compare-images.ts'
import type { Detection, Judge } from './judge.ts'
import type { QualityPrompt } from './prompts.ts'
import type { Configuration, Run } from './runs.ts'
import { ssim } from './structural-similarity.ts'
import { judge, showsEverything, type Verdict } from './verdict.ts'

export type JudgedImage = Verdict & { file: string; seen: Detection; psnr: number | null; ssim: number | null }

/**
 * Accuracies are fractions of the prompts with the criterion, NaN if there are none. PSNR (dB) and SSIM are means relative to float32 of
 * the same model and seed; null for float32 itself.
 */
export type Score = { [Criterion in keyof Verdict]: number } & {
  configuration: Configuration
  images: number
  /** Accuracy of the main sprite on simple prompts. */
  simpleSprite: number
  /** Fraction of correct images of natural prompts with expected contents. */
  natural: number
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
): Promise<JudgedImage[]> {
  const judged: JudgedImage[] = []
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

/** Whether each image of the natural prompts is correct; null for prompts without expected contents. */
export async function judgeNatural(
  { detect }: Judge,
  prompts: readonly QualityPrompt[],
  directory: string,
): Promise<(boolean | null)[]> {
  const shown: (boolean | null)[] = []
  for (const [i, prompt] of prompts.entries())
    shown.push(showsEverything(prompt, await detect(await readPixels(path.join(directory, `${i}.png`)))))
  return shown
}

const computeMean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
const computeFraction = (verdicts: readonly (boolean | null)[]) =>
  computeMean(verdicts.filter((verdict) => verdict !== null).map(Number))

export function score(
  configuration: Configuration,
  prompts: readonly QualityPrompt[],
  judged: readonly JudgedImage[],
  natural: readonly (boolean | null)[],
  runs: readonly Run[],
): Score {
  const computeShare = (criterion: keyof Verdict, of = judged) => computeFraction(of.map((each) => each[criterion]))
  const meanOf = (what: 'psnr' | 'ssim') => {
    const values = judged.flatMap((each) => each[what] ?? [])
    return values.length > 0 ? computeMean(values) : null
  }
  return {
    configuration,
    images: judged.length,
    ...{
      sprite: computeShare('sprite'),
      clear: computeShare('clear'),
      background: computeShare('background'),
      count: computeShare('count'),
    },
    ...{
      color: computeShare('color'),
      relation: computeShare('relation'),
      word: computeShare('word'),
      natural: computeFraction(natural),
    },
    simpleSprite: computeShare(
      'sprite',
      judged.filter((_, i) => prompts[i]!.simple),
    ),
    ...{ psnr: meanOf('psnr'), ssim: meanOf('ssim') },
    seconds: median(runs.map(({ seconds }) => seconds)),
    peakMegabytes: Math.max(...runs.map(({ peakBytes }) => peakBytes)) / 1e6,
  }
}
