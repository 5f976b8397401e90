// `npm run bench -- COMMAND`: the measurements behind the figures of docs/performance.md. Each command imports its module when it runs, so
// that it needs only the dependencies of that module.
import { randomInt } from 'node:crypto'
import os from 'node:os'
import path from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { TIERS } from '../../gpu-fn/contract.ts'
import { FULL_SIZES } from '../checkpoints/full-size.ts'
import { TINY_VARIANTS } from '../checkpoints/tiny/variants.ts'
import { endOnSignals } from '../command/end-on-signals.ts'
import { parseAmount, parseCount, parseWholeNumber } from '../command/numbers.ts'
import type { ControlnetBenchOptions } from './additions/controlnet.ts'
import type { LoraBenchOptions } from './additions/lora.ts'
import type { BatchBenchOptions } from './batch.ts'
import type { CacheBenchOptions } from './cache.ts'
import type { CompileBenchOptions } from './compile.ts'
import type { CpuBenchOptions, ParityOptions } from './cpu.ts'
import type { EdgeBenchOptions } from './edge/edge.ts'
import type { GivenGpuOptions } from './gpu/gpu.ts'
import { ATTACKS } from './hostile/attacks.ts'
import type { HostileBenchOptions } from './hostile/hostile.ts'
import type { KernelsOptions } from './operators/kernels.ts'
import type { ProfileOptions } from './operators/profile.ts'
import type { ParallelBenchOptions } from './parallel.ts'
import type { PngBenchOptions } from './png.ts'
import type { PrecisionBenchOptions } from './precision/precision.ts'
import type { RepeatsOptions } from './repeats/repeats.ts'
import type { ScheduleBenchOptions } from './schedule/schedule.ts'
import type { SoakOptions } from './soak/soak.ts'
import type { StepOptions } from './step.ts'
import type { StreamBenchOptions } from './stream.ts'

endOnSignals()
const command = new Command('bench').description('Measures performance and prints each figure next to its baseline.')
const parseList = (text: string) => text.split(',').map((item) => item.trim())
/** Parser for comma-separated numbers. */
const parseEach = (parse: (text: string) => number) => (text: string) => parseList(text).map(parse)
/** Tiers available with random weights, which are stored in 16 bits. */
const RANDOM_TIERS = TIERS.filter((tier) => tier !== 'fp32')
/** Distinct indexes of GPUs, as for CUDA_VISIBLE_DEVICES. */
function parseGpus(text: string): string[] {
  const gpus = parseList(text)
  if (gpus.every((gpu) => /^\d+$/.test(gpu)) && new Set(gpus).size === gpus.length) return gpus
  throw new InvalidArgumentError('give distinct indexes of GPUs, such as 0,1')
}
const createPythonOption = (packages = 'diffusers') =>
  new Option('--python <path>', `a Python with ${packages}`).env('OCTET_PYTHON').default('python3')
const createVariantOption = () =>
  new Option('--variant <name>', 'architecture of the random weights').choices(FULL_SIZES).default('large')

/** Parser for a comma-separated list of names from `allowed`. */
const parseNames = (kind: string, allowed: readonly string[]) => (text: string) => {
  const names = parseList(text)
  const unknown = names.find((name) => !allowed.includes(name))
  if (unknown === undefined) return names
  throw new InvalidArgumentError(`unknown ${kind} "${unknown}"; choose from: ${allowed.join(', ')}`)
}

command
  .command('batch')
  .description('jobs of small images that share steps, against the same jobs one after another')
  .addOption(
    new Option('--random <variant>', 'random weights instead of the built-in model, on a GPU').choices(FULL_SIZES),
  )
  .option('--directory <path>', 'their directory', path.join(os.tmpdir(), 'octet-bench-gpu'))
  .option('--model <name>', 'model:tier', 'nano:fp8')
  .option('--size <pixels>', 'width and height', parseCount, 256)
  .option('--steps <count>', 'steps of each job', parseCount, 8)
  .option('--guidance <scale>', 'guidance scale; without guidance by default', parseAmount, 1)
  .option('--jobs <count>', 'jobs submitted at once', parseCount, 8)
  .option('--sharing <count>', 'jobs per step', parseCount, 4)
  .option('--rounds <count>', 'timed rounds of each', parseCount, 3)
  .action(async (options: BatchBenchOptions) => (await import('./batch.ts')).benchBatch(options))

command
  .command('cache')
  .description('step caching against none: similarity and accuracy of images of nano, and seconds per image')
  .addOption(
    new Option('--model <name>').choices(['nano', ...FULL_SIZES, ...Object.keys(TINY_VARIANTS)]).default('nano'),
  )
  .addOption(
    new Option('--target <target>', 'of random weights').choices(['cpu', 'cuda', 'cuda-fp8']).default('cuda-fp8'),
  )
  .option('--directory <path>', 'checkpoint and package of random weights', path.join(os.tmpdir(), 'octet-bench-gpu'))
  .option('--size <pixels>', "width and height; the model's by default", parseCount)
  .option('--steps <count>', "the model's by default", parseCount)
  .addOption(new Option('--sampler <name>').choices(['euler', 'dpmpp_2m', 'heun']).default('euler'))
  .option('--prompts <count>', 'images with and without caching', parseCount, 40)
  .action(async (options: CacheBenchOptions) => (await import('./cache.ts')).benchCache(options))

command
  .command('compile')
  .description('compilation of a full-size checkpoint to FP8, against cp (needs 45 GB of disk for large)')
  .addOption(createVariantOption())
  .option('--directory <path>', 'scratch directory; that of the system by default')
  .action(async (options: CompileBenchOptions) => (await import('./compile.ts')).benchCompile(options))

command
  .command('edge')
  .description('the worker with an instant GPU function, against an empty Hono route')
  .option('--requests <count>', 'timed requests of each kind', parseCount, 100)
  .option('--in-flight <counts>', 'concurrent jobs, ascending, comma-separated', parseEach(parseCount), [10, 100, 1000])
  .option('--rows <count>', 'ledger rows', parseCount, 1_000_000)
  .action(async (options: EdgeBenchOptions) => (await import('./edge/edge.ts')).benchEdge(options))

command
  .command('hostile')
  .description('open-loop load at twice the capacity: honest callers alone, then with hostile ones')
  .option('--minutes <count>', 'duration with hostile callers; without them, half of it', parseAmount, 10)
  .option('--seed <number>', 'seed of all arrivals; random by default', parseWholeNumber, randomInt(2 ** 32))
  .option(
    '--attacks <names>',
    `comma-separated, from ${ATTACKS.join(', ')}; all by default`,
    parseNames('attack', ATTACKS),
    ATTACKS,
  )
  .action(async (options: HostileBenchOptions) => (await import('./hostile/hostile.ts')).benchHostile(options))

command
  .command('cpu')
  .description('seconds per image of nano on the CPU, against diffusers (needs Python with diffusers)')
  .addOption(createPythonOption())
  .option('--threads <count>', 'threads of each', parseCount, os.availableParallelism())
  .option('--runs <count>', 'timed images of each', parseCount, 5)
  .action(async (options: CpuBenchOptions) => (await import('./cpu.ts')).benchCpu(options))

/** A command about one model: nano, or an architecture with random weights. */
const createModelCommand = (name: string, description: string, targets = ['cpu', 'cuda', 'cuda-fp8']) =>
  command
    .command(name)
    .description(description)
    .addOption(
      new Option('--model <name>').choices(['nano', ...FULL_SIZES, ...Object.keys(TINY_VARIANTS)]).default('nano'),
    )
    .addOption(new Option('--target <target>').choices(targets).default('cpu'))
    .option(
      '--directory <path>',
      'checkpoint and package of models with random weights',
      path.join(os.tmpdir(), 'octet-gpu'),
    )

createModelCommand(
  'lora',
  "a step with two adapters against none, the time of a change of adapters, and nano's images in FP8 against float32",
)
  .option('--size <pixels>', 'side of the image', parseCount, 256)
  .option('--rank <count>', 'rank of each adapter', parseCount, 16)
  .option('--steps <count>', 'timed steps of each round', parseCount, 8)
  .option('--rounds <count>', 'rounds', parseCount, 3)
  .action(async (options: LoraBenchOptions) => (await import('./additions/lora.ts')).benchLora(options))

createModelCommand('parallel', 'guidance with its samples divided over several devices, against one device')
  .option('--size <pixels>', 'side of the image', parseCount, 256)
  .option('--devices <count>', 'devices; on a CPU, sessions with a share of the cores each', parseCount, 2)
  .option('--runs <count>', 'timed steps of each way', parseCount, 20)
  .option('--steps <count>', 'steps of the images', parseCount, 28)
  .action(async (options: ParallelBenchOptions) => (await import('./parallel.ts')).benchParallel(options))

command
  .command('controlnet')
  .description('a step with a ControlNet against one without, and one without after it')
  .addOption(new Option('--model <name>').choices(['large', 'tiny-large']).default('tiny-large'))
  .addOption(new Option('--target <target>').choices(['cpu', 'cuda', 'cuda-fp8']).default('cpu'))
  .option('--directory <path>', 'checkpoints and packages with random weights', path.join(os.tmpdir(), 'octet-gpu'))
  .option('--size <pixels>', 'side of the image', parseCount, 256)
  .option('--steps <count>', 'timed steps of each round', parseCount, 8)
  .option('--rounds <count>', 'rounds', parseCount, 3)
  .action(async (options: ControlnetBenchOptions) =>
    (await import('./additions/controlnet.ts')).benchControlnet(options),
  )

command
  .command('parity')
  .description('difference between images of nano and of diffusers on the CPU (needs Python with diffusers)')
  .addOption(createPythonOption())
  .option('--threads <count>', 'threads of each', parseCount, os.availableParallelism())
  .option('--prompts <count>', 'images of each model', parseCount, 20)
  .action(async (options: ParityOptions) => (await import('./cpu.ts')).benchParity(options))

command
  .command('kernels')
  .description('rates of the FP8 operators of a step (needs a GPU, gpu-fn/kernels/build and PyTorch)')
  .addOption(createVariantOption())
  .option('--size <pixels>', 'width and height', parseCount, 1024)
  .addOption(createPythonOption('PyTorch'))
  .action(async (options: KernelsOptions) => (await import('./operators/kernels.ts')).benchKernels(options))

command
  .command('profile')
  .description('time of each FP8 operator in a step, and its share of the step (needs what kernels needs)')
  .addOption(createVariantOption())
  .option('--size <pixels>', 'width and height', parseCount, 1024)
  .option('--runs <count>', 'timed steps', parseCount, 20)
  .addOption(createPythonOption('PyTorch'))
  .action(async (options: ProfileOptions) => (await import('./operators/profile.ts')).benchProfile(options))

command
  .command('png')
  .description('PNG encoding, against sharp')
  .argument('[files...]', 'images; those of the model card by default')
  .option('--runs <count>', 'timed runs of each', parseCount, 9)
  .action(async (files: string[], options: PngBenchOptions) => (await import('./png.ts')).benchPng(files, options))

command
  .command('precision')
  .description("number formats of adaLN and T5 weights: errors of the networks and PSNR of nano's images, on the CPU")
  .addOption(new Option('--model <name>').choices(['nano', ...Object.keys(TINY_VARIANTS)]).default('nano'))
  .option('--prompts <count>', 'prompts from the set of `npm run quality`', parseCount, 6)
  .option('--steps <count>', 'steps per image; default: those of the model', parseCount)
  .action(async (options: PrecisionBenchOptions) => (await import('./precision/precision.ts')).benchPrecision(options))

// Target cuda is excluded because its images are not bit-exact.
createModelCommand(
  'repeats',
  'requests that recur under load, with cancellations: all images of a request must be equal',
  ['cpu', 'cuda-fp8'],
)
  .option('--jobs <count>', 'number of jobs', parseCount, 2000)
  .option('--callers <count>', 'concurrent callers', parseCount, 4)
  .option('--requests <count>', 'distinct requests', parseCount, 24)
  .option('--cancels <share>', 'share of the jobs to cancel, by DELETE or by hanging up', parseAmount, 0.05)
  .option('--size <pixels>', "longest side of an image, up to the model's default", parseCount, 256)
  .option('--tiers <names>', `comma-separated, from ${RANDOM_TIERS.join(', ')}`, parseNames('tier', RANDOM_TIERS), [
    'fp8',
  ])
  .option('--loras <count>', 'number of random adapters, for half of the requests', parseWholeNumber, 0)
  .option('--vram <gigabytes>', 'limit of GPU memory in GiB; networks beyond it are offloaded')
  .option('--seed <number>', 'seed of requests, jobs and cancellations', parseWholeNumber, 1)
  .action(async (options: RepeatsOptions) => (await import('./repeats/repeats.ts')).benchRepeats(options))

createModelCommand(
  'schedule',
  'mixed load under the GPU scheduler and first come, first served: a simulation with times of an H200',
)
  .option('--minutes <count>', 'duration of each load; 0 omits them', parseAmount, 120)
  .option('--loads <shares>', 'loads relative to the capacity, comma-separated', parseEach(parseAmount), [0.7, 0.95])
  .option('--overload <minutes>', 'duration of the load of twice the capacity; 0 omits it', parseAmount, 10)
  .option('--seed <number>', 'seed of the traces', parseWholeNumber, 1)
  .option('--aging <seconds>', 'longest time from acceptance to image', parseAmount, 60)
  .option('--slowdown <factor>', 'simulated durations relative to those of the load', parseAmount, 1)
  .option('--real', 'run GPU functions with the model instead')
  .option('--gpus <indexes>', 'GPUs of this host, each of which runs one trace at a time', parseGpus)
  .option('--size <pixels>', 'width and height', parseCount, 256)
  .action(async (options: ScheduleBenchOptions) => (await import('./schedule/schedule.ts')).benchSchedule(options))

command
  .command('soak')
  .description('random faults of the GPU function under load: no job may be lost, wrong or stuck')
  .option('--minutes <count>', 'duration', parseAmount, 20)
  .option('--faults <count>', 'number of faults', parseCount, 500)
  .option('--callers <count>', 'concurrent callers', parseCount, 6)
  .option('--seed <number>', 'seed of faults and requests', parseWholeNumber, 1)
  .action(async (options: SoakOptions) => (await import('./soak/soak.ts')).benchSoak(options))

command
  .command('step')
  .description('one denoising step at full size with random weights, FP8 against 16-bit (needs a GPU and the kernels)')
  .addOption(createVariantOption())
  .addOption(new Option('--tier <tier>', 'precision of the weights').choices(['fp8', 'fp8-int4']).default('fp8'))
  .option('--size <pixels>', 'width and height', parseCount, 1024)
  .option('--batch <count>', 'batch size', parseCount, 1)
  .option('--blocks <count>', 'transformer blocks; all of the variant by default', parseCount)
  .option('--runs <count>', 'timed runs', parseCount, 20)
  .option('--graph', 'also as a CUDA graph')
  .action(async (options: StepOptions) => (await import('./step.ts')).benchStep(options))

command
  .command('stream')
  .description('package download from a local S3 server to disk, against curl (needs curl and disk for three packages)')
  .option('--gigabytes <count>', 'size of the package', parseAmount, 2)
  .option('--runs <count>', 'timed rounds', parseCount, 5)
  .option('--directory <path>', 'scratch directory; that of the system by default')
  .action(async (options: StreamBenchOptions) => (await import('./stream.ts')).benchStream(options))

command
  .command('gpu')
  .description('full-size SD3.5 with random weights, against PyTorch (needs Python with diffusers; 110 GB for large)')
  .option('--short', 'a report about this GPU, in minutes and without diffusers (27 GB for medium, 46 GB for large)')
  .addOption(
    new Option('--variant <name>', 'architecture of the random weights; large by default, or medium if short').choices([
      ...FULL_SIZES,
      ...Object.keys(TINY_VARIANTS),
    ]),
  )
  .addOption(new Option('--device <device>', 'cpu is a dry run').choices(['cuda', 'cpu']).default('cuda'))
  .option('--directory <path>', 'persistent checkpoint and packages', path.join(os.tmpdir(), 'octet-bench-gpu'))
  .addOption(createPythonOption())
  .option('--out <file>', 'JSON lines file to append figures to; gpu.jsonl by default, or gpu-short.jsonl')
  .option('--sizes <sizes>', 'comma-separated; by default 1024x1024, 512x512 and, unless short, 1024x768', parseList)
  .option('--full-sizes <sizes>', 'sizes of images with all steps and guidance', parseList)
  .option('--steps <count>', 'steps of an image with all steps', parseCount, 28)
  .option('--runs <count>', 'timed runs of everything else', parseCount, 5)
  .option('--systems <names>', 'comma-separated; all by default', parseList)
  .option('--seconds <count>', 'time limit of each system, or of each part if short', parseAmount, 900)
  .option('--cold-directory <path>', 'directory on a disk, for a start with an empty page cache (needs root)')
  .option('--whole', 'apply torch.compile to the whole transformer instead of each block', false)
  .action(async ({ short, ...options }: GivenGpuOptions & { short?: boolean }) => {
    if (short) return (await import('./gpu/short/short.ts')).benchShort(options)
    await (await import('./gpu/gpu.ts')).benchGpu(options)
  })

command
  .command('gpu-table')
  .description('tables of figures written by `gpu`')
  .argument('<files...>', 'JSON lines files')
  .option('--write', 'update the tables of docs/performance.md')
  .action(async (files: string[], options: { write?: boolean }) => {
    const { benchGpuTable } = await import('./gpu/table.ts')
    await benchGpuTable({ files, ...options })
  })

await command.parseAsync().catch((error: Error) => {
  console.error(`bench: ${error.message}`)
  process.exitCode = 1
})
