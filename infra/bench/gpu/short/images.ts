// Start and image times of the GPU function, over HTTP, with random weights.
import { existsSync } from 'node:fs'
import fs from 'node:fs/promises'
import path from 'node:path'
import { median } from '../../statistics.ts'
import { type GpuVariant, makeCheckpoint, makePackage, type Target } from '../packages.ts'
import type { Recorder } from '../recorder.ts'
import { type GpuFunction, type ImageRequest, startGpuFunction } from '../start.ts'

export type ImagesOptions = {
  readonly variant: GpuVariant
  readonly target: Target
  /** Directory for the checkpoint and the package. */
  readonly work: string
  readonly sizes: readonly string[]
  readonly fullSizes: readonly string[]
  /** Steps per image at full quality, with guidance. */
  readonly steps: number
  readonly runs: number
  /** Time limit for the GPU function. */
  readonly seconds: number
}

const SYSTEM = 'images'
const TIER = 'fp8'
const PROMPT = 'a red heart on a blue sky above a green field, with a small house to the left'
/** Disk space required for a checkpoint and for its package. */
const DISK_GB: Partial<Record<GpuVariant, { checkpoint: number; package: number }>> = {
  medium: { checkpoint: 17, package: 10 },
  large: { checkpoint: 28, package: 18 },
}

/** Records start times, image times and GPU memory. Throws if the package cannot be compiled or the GPU function does not start. */
export async function measureImages(options: ImagesOptions, recorder: Recorder): Promise<void> {
  const { variant, sizes, fullSizes, steps, runs, seconds } = options
  const packages = await preparePackage(options, recorder)
  const size = sizes[0]!
  const signal = AbortSignal.timeout(seconds * 1000)
  const requestOf = (size: string, steps: number, guidanceScale: number): ImageRequest => ({
    ...{ model: variant, tier: TIER, prompt: PROMPT, seed: 1 },
    ...{ size, steps, guidanceScale },
  })
  recorder.recordPeak(SYSTEM, 'before')
  const served = { packages, model: variant, tier: TIER, size }
  const gpu = await startGpuFunction(served, (line) => recorder.handleLine(SYSTEM, line), signal)
  recorder.recordPeak(SYSTEM, 'start', size)
  try {
    await measureEach('first_image_s', [size], recorder, async () => {
      await gpu.makeImage(requestOf(size, 4, 1))
      return gpu.seconds()
    })
    await measureEach('turbo_s', sizes, recorder, (size) => measureMedianSeconds(gpu, requestOf(size, 4, 1), runs))
    await measureEach('full_s', fullSizes, recorder, async (size) => {
      await gpu.makeImage(requestOf(size, 1, 3.5))
      return measureMedianSeconds(gpu, requestOf(size, steps, 3.5), 1)
    })
  } finally {
    await gpu.close()
  }
}

/** Records a metric and the peak memory for each size. An error at one size is recorded, and the next size is measured. */
async function measureEach(
  metric: string,
  sizes: readonly string[],
  recorder: Recorder,
  measure: (size: string) => Promise<number>,
): Promise<void> {
  for (const size of sizes) {
    try {
      recorder.record(SYSTEM, { metric, size, value: await measure(size) })
    } catch (error) {
      recorder.record(SYSTEM, { metric, size, value: null, error: String(error) })
    }
    recorder.recordPeak(SYSTEM, metric, size)
  }
}

/** Median seconds per image over `runs` images, preceded by a warm-up image unless `runs` is 1. */
async function measureMedianSeconds(gpu: GpuFunction, request: ImageRequest, runs: number): Promise<number> {
  if (runs > 1) await gpu.makeImage(request)
  const times: number[] = []
  for (let run = 0; run < runs; run++) {
    const start = gpu.seconds()
    await gpu.makeImage(request)
    times.push(gpu.seconds() - start)
  }
  return median(times)
}

/** Compiles the package if it is missing, then deletes the checkpoint unless it existed before. Returns the package's parent directory. */
async function preparePackage({ variant, target, work }: ImagesOptions, recorder: Recorder): Promise<string> {
  const packages = path.join(work, `${target}-${TIER}`)
  if (existsSync(path.join(packages, 'package'))) {
    recorder.record('package', { metric: 'existing', value: 1 })
    return packages
  }
  const checkpoint = path.join(work, 'checkpoint')
  const isKept = existsSync(checkpoint)
  await requireDisk(work, computeRequiredGigabytes(variant, isKept))
  try {
    await recorder.recordDuration('package', async () => {
      await makeCheckpoint(variant, work)
      await makePackage({ variant, target, tier: TIER }, work)
    })
  } finally {
    if (!isKept) await fs.rm(checkpoint, { recursive: true, force: true })
  }
  return packages
}

/** Disk space required for a package, and for its checkpoint unless it exists. */
export function computeRequiredGigabytes(variant: GpuVariant, hasCheckpoint: boolean): number {
  const required = DISK_GB[variant]
  if (!required) return 0
  return hasCheckpoint ? required.package : required.checkpoint + required.package
}

async function requireDisk(directory: string, gigabytes: number): Promise<void> {
  const { bavail, bsize } = await fs.statfs(directory)
  const free = (bavail * bsize) / 1e9
  if (free < gigabytes)
    throw new Error(
      `${directory} has ${free.toFixed(0)} GB of free disk space; ${gigabytes} GB are required. Choose another with --directory`,
    )
}
