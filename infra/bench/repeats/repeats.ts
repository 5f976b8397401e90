// `npm run bench -- repeats`: recurring requests under load, with cancellations. All images of a request must be identical, and memory must
// not grow.
import { randomOf } from '../../command/random.ts'
import { makeScratch } from '../../command/scratch.ts'
import { withFunction } from '../schedule/gpu-function.ts'
import { runLoad } from './load.ts'
import { type PackageOptions, preparePackages } from './packages.ts'
import { printReport, type Repeats } from './report.ts'
import { drawJobs, drawRequests, type RequestOptions, sizesOf } from './requests.ts'

export type RepeatsOptions = PackageOptions &
  Pick<RequestOptions, 'size' | 'requests'> & {
    jobs: number
    callers: number
    /** Fraction of jobs to cancel. */
    cancels: number
    /** GPU memory limit in GiB. Networks that do not fit are offloaded. */
    vram?: string
    seed: number
  }

const AGING_SECONDS = 600
/** Shortest delay from a closed connection to the cancellation of its job. */
const UNREAD_SECONDS = 1

/** Starts a GPU function and runs the jobs on it. */
export async function runRepeats(options: RepeatsOptions): Promise<Repeats> {
  await using scratch = makeScratch('octet-repeats-')
  const { tiers, size, seed, vram, callers } = options
  const { model, loras } = await preparePackages(options, scratch.directory)
  const requests = drawRequests({ ...options, loras }, randomOf(seed, 'requests'))
  const jobs = drawJobs(options, randomOf(seed, 'jobs'))
  const errors: string[] = []
  const settings = {
    OCTET_WARM: sizesOf(size)
      .map(({ width, height }) => `${width}x${height}`)
      .join(),
    OCTET_UNREAD_SECONDS: String(UNREAD_SECONDS),
  }
  const preload = tiers.map((tier) => `${model}:${tier}`)
  const about = { packages: scratch.directory, preload, size, agingSeconds: AGING_SECONDS, vram, settings }
  const run = await withFunction({ ...about, onLog: (line) => errors.push(...errorsOf(line)) }, (url, watch) =>
    watch(() => runLoad({ url, model, requests, jobs, callers })),
  )
  return { ...run, requests, errors }
}

/** pino's error level. */
const ERROR = 50

/** Error message of a log line, if any. */
function errorsOf(line: string): string[] {
  try {
    const { level, msg, err, job } = JSON.parse(line)
    return level >= ERROR ? [[msg, job, err?.message].filter(Boolean).join(': ')] : []
  } catch {
    return []
  }
}

/**
 * Prints counts, differing images, errors and memory use. Sets exit code 1 if an image differs, a job fails, the GPU function logs an error,
 * or memory grows.
 */
export async function benchRepeats(options: RepeatsOptions): Promise<void> {
  const { model, target, tiers, size, loras, vram, seed, jobs, callers, requests } = options
  const limit = vram === undefined ? '' : ` within ${vram} GiB`
  console.log(`${model}, ${target}, ${tiers.join(' and ')}, images up to ${size}²${limit}, ${loras} adapters`)
  console.log(`${jobs} jobs of ${requests} requests by ${callers} callers, seed ${seed}`)
  printReport(await runRepeats(options))
}
