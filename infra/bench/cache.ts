// Step caching: the similarity, the accuracy and the duration of images with it, relative to the same images without it.
import path from 'node:path'
import { countEvaluations, type JobRequest } from '../../gpu-fn/contract.ts'
import type { OpenPipeline } from '../../gpu-fn/engine/package/open-pipeline.ts'
import { prepareBuiltInPackage } from '../local/models/built-in-model.ts'
import { render, withPipeline } from '../local/models/render.ts'
import { type Judge, openJudge } from '../quality/judge.ts'
import { type QualityPrompt, readQualityPrompts } from '../quality/prompts.ts'
import { judge, type Verdict } from '../quality/verdict.ts'
import { type Pixels, psnr, readPixels } from '../receipts/compare-images.ts'
import { type GpuVariant, makeCheckpoint, makePackage, type Target } from './gpu/packages.ts'
import { median } from './statistics.ts'

export type CacheBenchOptions = {
  /** `nano`, whose images are judged, or an architecture with random weights, for its duration only. */
  readonly model: GpuVariant | 'nano'
  readonly target: Target
  readonly directory: string
  readonly size?: number
  readonly steps?: number
  readonly sampler: NonNullable<JobRequest['sampler']>
  readonly prompts: number
}

type GeneratedImage = { seconds: number; pixels: Pixels; verdict: Verdict | null }
type Pair = { prompt: string; plain: GeneratedImage; cached: GeneratedImage; psnr: number }

const WORST = 3
/** PSNR of equal images, so that means are finite. */
const SAME_PSNR = 100

/** Prints the share of the evaluations that step caching omits, the seconds per image, and for nano PSNR and accuracy. */
export async function benchCache(options: CacheBenchOptions): Promise<void> {
  const judges = options.model === 'nano' ? await openJudge() : null
  await withPipeline(await packageOf(options), async (pipeline) => {
    const make = (prompt: QualityPrompt, cache: boolean) => makeImage(pipeline, judges, prompt, { ...options, cache })
    const prompts = spread(await readQualityPrompts(), options.prompts)
    await make(prompts[0]!, false)
    const pairs: Pair[] = []
    for (const prompt of prompts) {
      const [plain, cached] = [await make(prompt, false), await make(prompt, true)]
      const likeness = Math.min(SAME_PSNR, psnr(plain.pixels, cached.pixels))
      pairs.push({ prompt: prompt.prompt, plain, cached, psnr: likeness })
    }
    reportWork(pipeline, options, pairs)
    if (judges) reportImages(pairs)
  })
  await judges?.release()
}

async function packageOf({ model, target, directory }: CacheBenchOptions): Promise<string> {
  if (model === 'nano') return prepareBuiltInPackage('nano', 'fp32')
  const own = path.join(directory, model)
  await makeCheckpoint(model, own)
  return makePackage({ variant: model, target, tier: 'fp8' }, own)
}

/** `count` prompts at equal distances, so that simple and composed ones are both present. */
const spread = (prompts: readonly QualityPrompt[], count: number) =>
  Array.from({ length: count }, (_, i) => prompts[Math.floor((i * prompts.length) / count) % prompts.length]!)

async function makeImage(
  pipeline: OpenPipeline,
  judges: Judge | null,
  prompt: QualityPrompt,
  { size, steps, sampler, cache }: Pick<CacheBenchOptions, 'size' | 'steps' | 'sampler'> & { cache: boolean },
): Promise<GeneratedImage> {
  const start = performance.now()
  const file = await render(pipeline, {
    ...{ prompt: prompt.prompt, seed: prompt.seed, sampler },
    ...(size && { width: size, height: size }),
    ...(steps && { steps }),
    ...(cache && { cache: 'fast' }),
  })
  const seconds = (performance.now() - start) / 1000
  const pixels = await readPixels(file)
  return { seconds, pixels, verdict: judges && judge(prompt, await judges.detect(pixels)) }
}

function reportWork({ package: { manifest } }: OpenPipeline, options: CacheBenchOptions, pairs: readonly Pair[]): void {
  const { sampler, steps = manifest.defaults.steps } = options
  const sampling = { ...manifest.defaults, sampler, steps }
  const [all, computed] = [countEvaluations(sampling), countEvaluations({ ...sampling, cache: 'fast' })]
  const omitted = `${all - computed} of ${all} evaluations omitted (${formatPercent((all - computed) / all)})`
  const [plain, cached] = [
    median(pairs.map((pair) => pair.plain.seconds)),
    median(pairs.map((pair) => pair.cached.seconds)),
  ]
  const { width, height } = pairs[0]!.plain.pixels
  console.log(`${manifest.model}, ${sampler}, ${steps} steps, ${width}x${height}: ${omitted}`)
  console.log(`${plain.toFixed(2)} s without cache, ${cached.toFixed(2)} s with: ${(cached / plain).toFixed(2)} ×`)
}

function reportImages(pairs: readonly Pair[]): void {
  const mean = pairs.reduce((sum, pair) => sum + pair.psnr, 0) / pairs.length
  const ascending = pairs.toSorted((a, b) => a.psnr - b.psnr)
  console.log(`${pairs.length} prompts: PSNR mean ${mean.toFixed(1)} dB, min ${ascending[0]!.psnr.toFixed(1)} dB`)
  for (const pair of ascending.slice(0, WORST)) console.log(`  ${pair.psnr.toFixed(1)} dB: ${pair.prompt}`)
  for (const part of ['sprite', 'clear', 'background', 'count'] as const) {
    const computeShare = (kind: 'plain' | 'cached') =>
      formatPercent(pairs.filter((pair) => pair[kind].verdict?.[part]).length / pairs.length)
    console.log(`${part}: ${computeShare('plain')} without cache, ${computeShare('cached')} with`)
  }
}

const formatPercent = (share: number) => `${(100 * share).toFixed(1)} %`
