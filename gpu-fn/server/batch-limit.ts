// Which jobs may share runs of the denoiser, and how many.
import { hasGuidance, type JobRequest } from '../contract.ts'

/**
 * Maximum number of pixels of all samples in a run: four samples of 512 x 512. On an H200 these take 2.8 times as long as one; larger
 * images gain a few percent (docs/performance.md), and would need more memory.
 */
const MAX_PIXELS = 2 ** 20

const samplesOf = (request: JobRequest) => (hasGuidance(request) ? 2 : 1)

/** The maximum number of jobs like this one in a run; 1 for jobs that run alone. */
export function computeLargestBatch(request: JobRequest): number {
  if (request.loras || request.controls || request.skip_layer_guidance) return 1
  return Math.max(1, Math.floor(MAX_PIXELS / (request.width * request.height * samplesOf(request))))
}

/** Jobs with equal keys may share runs: their samples have one shape and one model. */
export const batchKeyOf = (request: JobRequest): string => {
  const { model, tier, width, height } = request
  return [model, tier, width, height, samplesOf(request), computeLargestBatch(request) > 1].join(' ')
}
