// Speed and accuracy of nano on the CPU relative to diffusers, with the same checkpoint, prompts, seeds and number of threads.
import path from 'node:path'
import type { OpenPipeline } from '../../gpu-fn/engine/package/open-pipeline.ts'
import { openPackage } from '../../gpu-fn/weights/packages.ts'
import { makeScratch } from '../command/scratch.ts'
import {
  BUILT_IN_MODELS,
  type BuiltInModel,
  CHECKPOINTS,
  prepareBuiltInPackage,
  type Tier,
} from '../local/models/built-in-model.ts'
import { render, withPipeline } from '../local/models/render.ts'
import { readQualityPrompts } from '../quality/prompts.ts'
import { compareDifferences, psnr, readPixels } from '../receipts/compare-images.ts'
import { type Diffusers, type DiffusersRequest, openDiffusers } from './diffusers.ts'
import { median } from './statistics.ts'

type Options = { readonly python: string; readonly threads: number }
export type CpuBenchOptions = Options & { readonly runs: number }
export type ParityOptions = Options & { readonly prompts: number }

/** Requests for `count` prompts of the quality set, with the model's default steps, guidance scale and size. */
async function createRequests(model: BuiltInModel, count: number): Promise<DiffusersRequest[]> {
  const { manifest } = await openPackage(await prepareBuiltInPackage(model, 'fp32'))
  const prompts = await readQualityPrompts()
  return prompts.slice(0, count).map(({ prompt, seed }, i) => ({
    ...{ name: `${model}-${i}`, checkpoint: CHECKPOINTS[model], prompt, negative_prompt: '', seed },
    ...manifest.defaults,
  }))
}

/** Calls `use` with diffusers and its output directory. */
async function compareWithDiffusers(
  { python, threads }: Options,
  use: (diffusers: Diffusers, out: string) => Promise<void>,
) {
  await using scratch = makeScratch('octet-bench-')
  const diffusers = openDiffusers(python, scratch.directory, threads)
  try {
    await use(diffusers, scratch.directory)
  } finally {
    await diffusers.close()
  }
}

async function secondsOf(pipeline: OpenPipeline, request: DiffusersRequest): Promise<number> {
  const start = performance.now()
  await render(pipeline, request)
  return (performance.now() - start) / 1000
}

/**
 * Prints the median seconds per image of diffusers in float32 and of Octet in float32 and FP8, and their ratios. The three alternate, so
 * that other load of the machine affects all of them.
 */
export async function benchCpu({ runs, ...options }: CpuBenchOptions): Promise<void> {
  const open = async <T>(model: BuiltInModel, tier: Tier, use: (pipeline: OpenPipeline) => Promise<T>) =>
    withPipeline(await prepareBuiltInPackage(model, tier), use, { threads: options.threads })
  await compareWithDiffusers(options, async (diffusers) => {
    for (const model of BUILT_IN_MODELS) {
      const times: Record<'diffusers' | 'fp32' | 'fp8', number[]> = { diffusers: [], fp32: [], fp8: [] }
      await open(model, 'fp32', (fp32) =>
        open(model, 'fp8', async (fp8) => {
          for (const request of await createRequests(model, runs + 1)) {
            times.diffusers.push((await diffusers.make(request)).seconds)
            times.fp32.push(await secondsOf(fp32, request))
            times.fp8.push(await secondsOf(fp8, request))
          }
        }),
      )
      // The first image of each includes the warm-up.
      const warm = (name: keyof typeof times) => median(times[name].slice(1))
      const theirs = warm('diffusers')
      const formatOctet = (tier: 'fp32' | 'fp8') =>
        `${tier} ${warm(tier).toFixed(2)} s (${(warm(tier) / theirs).toFixed(2)} ×)`
      const what = `${model} on ${options.threads} threads, median of ${runs}`
      console.log(`${what}: diffusers ${theirs.toFixed(2)} s, octet ${formatOctet('fp32')}, ${formatOctet('fp8')}`)
    }
  })
}

/** Prints the differences between images of Octet and of diffusers, both in float32. Sets exit code 1 if one exceeds 2 of 255. */
export async function benchParity({ prompts, ...options }: ParityOptions): Promise<void> {
  await compareWithDiffusers(options, async (diffusers, out) => {
    for (const model of BUILT_IN_MODELS) {
      const found = await withPipeline(await prepareBuiltInPackage(model, 'fp32'), async (pipeline) => {
        const each: { largest: number; share: number; psnr: number }[] = []
        for (const request of await createRequests(model, prompts)) {
          await diffusers.make(request)
          const ours = await readPixels(await render(pipeline, request))
          const theirs = await readPixels(path.join(out, `${request.name}.png`))
          each.push({ ...compareDifferences(ours, theirs), psnr: psnr(ours, theirs) })
        }
        return each
      })
      const largest = Math.max(...found.map((each) => each.largest))
      const worst = Math.min(...found.map((each) => each.psnr))
      const share = Math.max(...found.map((each) => each.share))
      const figures = `at most ${largest} of 255 and ${(100 * share).toFixed(2)} % of the values, PSNR ≥ ${worst.toFixed(1)} dB`
      console.log(`${model}, ${prompts} prompts, fp32 differs from diffusers by ${figures}`)
      if (largest > 2) process.exitCode = 1
    }
  })
}
