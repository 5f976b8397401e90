// `npm run bench -- batch`: jobs of small images that share steps, against the same jobs one after another, in one run.
import { pino } from 'pino'
import { type JobRequest, PROTOCOL_VERSION } from '../../gpu-fn/contract.ts'
import { PackageEngine } from '../../gpu-fn/engine/package-engine.ts'
import { type Job, outcomeOf } from '../../gpu-fn/server/job.ts'
import { Jobs } from '../../gpu-fn/server/jobs.ts'
import { Verifier } from '../../gpu-fn/weights/verification.ts'
import type { FullSize } from '../checkpoints/full-size.ts'
import { makeScratch } from '../command/scratch.ts'
import { prepareBuiltInPackages } from '../local/models/built-in-model.ts'
import { psnr, readPixels } from '../receipts/compare-images.ts'
import { makeCheckpoint, makePackage } from './gpu/packages.ts'
import { median, percentile } from './statistics.ts'

export type BatchBenchOptions = {
  random?: FullSize
  directory: string
  model: string
  size: number
  steps: number
  guidance: number
  jobs: number
  sharing: number
  rounds: number
}

/** Seconds of a round, the median seconds from submission to end (`latency`), and the image of each job. */
type Round = { seconds: number; latency: number; images: Uint8Array[] }

export async function benchBatch(options: BatchBenchOptions): Promise<void> {
  await using cache = makeScratch('octet-batch-')
  const packages = options.random
    ? await createRandomPackages(options.random, options.directory)
    : (await prepareBuiltInPackages(['fp8'])).directory
  const log = pino({ level: 'warn' }, pino.destination(2))
  const limits = { memoryBytes: Number.MAX_SAFE_INTEGER, stallSeconds: 600, onStall: () => process.exit(1) }
  const verifier = new Verifier({ directory: cache.directory, log })
  const engine = new PackageEngine({ packages, verifier, log, ...limits, sharing: options.sharing })
  await engine.start()
  try {
    const shares = [1, options.sharing]
    // A round of each before the timed ones, because the first run of a shape is slow.
    for (const sharing of shares) await runRound(engine, options, sharing)
    const rounds: Round[][] = []
    for (let i = 0; i < options.rounds; i++) {
      const pair: Round[] = []
      for (const sharing of shares) pair.push(await runRound(engine, options, sharing))
      rounds.push(pair)
    }
    await print(options, rounds)
  } finally {
    await engine.stop()
  }
}

async function runRound(engine: PackageEngine, options: BatchBenchOptions, sharing: number): Promise<Round> {
  const log = pino({ level: 'silent' })
  const limits = { queue: 10_000, retainSeconds: 0, retainBytes: 0, unreadSeconds: 86_400, agingSeconds: 86_400 }
  const onBroken = () => process.exit(1)
  const jobs = new Jobs({ engine, lifecycle: { status: 'ready' }, log, onBroken, ...limits, sharing })
  const start = performance.now()
  const ends: number[] = []
  const submit = (_: unknown, seed: number): Job => {
    const job = jobs.submit(`job-${seed}`, requestOf(options, seed))
    job.changes.on('entry', () => outcomeOf(job) && ends.push((performance.now() - start) / 1000))
    return job
  }
  const submitted = Array.from({ length: options.jobs }, submit)
  await jobs.waitUntilIdle()
  const failed = submitted.map(outcomeOf).find((end) => end?.type !== 'succeeded')
  if (failed) throw new Error(JSON.stringify(failed))
  const images = submitted.map(({ entries }) => entries.find(({ data }) => data)!.data!)
  return { seconds: (performance.now() - start) / 1000, latency: percentile(ends, 0.5), images }
}

function requestOf({ model, size, steps, guidance }: BatchBenchOptions, seed: number): JobRequest {
  const [name, tier] = model.split(':') as [string, JobRequest['tier']]
  const shape = { width: size, height: size, steps, guidance_scale: guidance, count: 1, seed }
  const text = { prompt: `a cat, ${seed}`, negative_prompt: '', text_convention: 'diffusers' } as const
  const file = { output_format: 'png', output_quality: 90 } as const
  const schedule = { tenant: 'all', weight: 1, interactive: false }
  return { protocol: PROTOCOL_VERSION, attempt: 1, model: name, tier, ...shape, ...text, ...file, schedule }
}

async function print({ model, size, steps, jobs, sharing }: BatchBenchOptions, rounds: Round[][]): Promise<void> {
  const ratioOf = (read: (round: Round) => number) =>
    median(rounds.map(([alone, shared]) => read(alone!) / read(shared!))).toFixed(2)
  const equal = rounds[0]![0]!.images.filter((image, i) => Buffer.from(image).equals(rounds[0]![1]!.images[i]!)).length
  const [alone, shared] = [0, 1].map((k) => median(rounds.map((pair) => pair[k]!.seconds)).toFixed(2))
  console.log(
    `${jobs} jobs of ${model}, ${size} x ${size}, ${steps} steps: ${alone} s alone, ${shared} s with ${sharing} per step`,
  )
  console.log(`images per second: ${ratioOf(({ seconds }) => seconds)} x`)
  console.log(`median time to image: ${ratioOf(({ latency }) => 1 / latency)} x`)
  console.log(`byte-identical images: ${equal} of ${jobs}`)
  const psnrs: number[] = []
  for (const [alone, shared] of rounds)
    for (const [i, image] of shared!.images.entries())
      psnrs.push(psnr(await readPixels(image), await readPixels(alone!.images[i]!)))
  console.log(
    `PSNR of shared against alone: median ${median(psnrs).toFixed(1)} dB, lowest ${Math.min(...psnrs).toFixed(1)} dB`,
  )
}

/** The package of a full-size variant with random weights for a GPU, made once in the directory. */
async function createRandomPackages(variant: FullSize, directory: string): Promise<string> {
  await makeCheckpoint(variant, directory)
  return makePackage({ variant, target: 'cuda-fp8', tier: 'fp8' }, directory)
}
