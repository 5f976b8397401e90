// `npm run bench -- COMMAND`: the measurements behind the figures of docs/performance.md. Each command imports its module when it runs, so
// that it needs only the dependencies of that module.
import { randomInt } from 'node:crypto'
import os from 'node:os'
import path from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { FULL_SIZES } from '../checkpoints/full-size.ts'
import { TINY_VARIANTS } from '../checkpoints/tiny/variants.ts'
import { endOnSignals } from '../command/end-on-signals.ts'
import { parseWholeNumber } from '../command/whole-number.ts'
import type { ControlnetBenchOptions } from './additions/controlnet.ts'
import type { LoraBenchOptions } from './additions/lora.ts'
import type { BatchBenchOptions } from './batch.ts'
import type { CacheBenchOptions } from './cache.ts'
import type { CompileBenchOptions } from './compile.ts'
import type { CpuBenchOptions, ParityOptions } from './cpu.ts'
import type { EdgeBenchOptions } from './edge/edge.ts'
import type { GpuBenchOptions } from './gpu/gpu.ts'
import { ATTACKS } from './hostile/attacks.ts'
import type { HostileBenchOptions } from './hostile/hostile.ts'
import type { KernelsOptions } from './kernels.ts'
import type { ParallelBenchOptions } from './parallel.ts'
import type { PngBenchOptions } from './png.ts'
import type { PrecisionBenchOptions } from './precision/precision.ts'
import type { ScheduleBenchOptions } from './schedule/schedule.ts'
import type { SoakOptions } from './soak/soak.ts'
import type { StepOptions } from './step.ts'
import type { StreamBenchOptions } from './stream.ts'

endOnSignals()
const command = new Command('bench').description('Measures performance and prints each figure next to its baseline.')
const parseList = (text: string) => text.split(',').map((item) => item.trim())
const parseNumbers = (text: string) => parseList(text).map(Number)
const pythonOption = () =>
  new Option('--python <path>', 'a Python with diffusers').env('OCTET_PYTHON').default('python3')
const variantOption = () =>
  new Option('--variant <name>', 'architecture of the random weights').choices(FULL_SIZES).default('large')

function parseAttacks(text: string): string[] {
  const names = parseList(text)
  const unknown = names.find((name) => !ATTACKS.includes(name))
  if (unknown === undefined) return names
  throw new InvalidArgumentError(`unknown attack "${unknown}"; choose from: ${ATTACKS.join(', ')}`)
}

command
  .command('batch')
  .description('jobs of small images that share steps, against the same jobs one after another')
  .addOption(
    new Option('--random <variant>', 'random weights instead of the built-in model, on a GPU').choices(FULL_SIZES),
  )
  .option('--directory <path>', 'their directory', path.join(os.tmpdir(), 'octet-bench-gpu'))
  .option('--model <name>', 'model:tier', 'nano:fp8')
  .option('--size <pixels>', 'width and height', Number, 256)
  .option('--steps <count>', 'steps of each job', Number, 8)
  .option('--guidance <scale>', 'guidance scale; without guidance by default', Number, 1)
  .option('--jobs <count>', 'jobs submitted at once', Number, 8)
  .option('--sharing <count>', 'jobs per step', Number, 4)
  .option('--rounds <count>', 'timed rounds of each', Number, 3)
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
  .option('--size <pixels>', "width and height; the model's by default", Number)
  .option('--steps <count>', "the model's by default", parseWholeNumber)
  .addOption(new Option('--sampler <name>').choices(['euler', 'dpmpp_2m', 'heun']).default('euler'))
  .option('--prompts <count>', 'images with and without caching', parseWholeNumber, 40)
  .action(async (options: CacheBenchOptions) => (await import('./cache.ts')).benchCache(options))

command
  .command('compile')
  .description('compilation of a full-size checkpoint to FP8, against cp (needs 45 GB of disk for large)')
  .addOption(variantOption())
  .option('--directory <path>', 'scratch directory; the system one by default')
  .action(async (options: CompileBenchOptions) => (await import('./compile.ts')).benchCompile(options))

command
  .command('edge')
  .description('the worker with an instant GPU function, against an empty Hono route')
  .option('--requests <count>', 'timed requests of each kind', Number, 100)
  .option('--in-flight <counts>', 'concurrent jobs, ascending, comma-separated', parseNumbers, [10, 100, 1000])
  .option('--rows <count>', 'ledger rows', Number, 1_000_000)
  .action(async (options: EdgeBenchOptions) => (await import('./edge/edge.ts')).benchEdge(options))

command
  .command('hostile')
  .description('open-loop load at twice the capacity: honest callers alone, then with hostile ones')
  .option('--minutes <count>', 'duration with hostile callers; without them, half of it', Number, 10)
  .option('--seed <number>', 'seed of all arrivals; random by default', parseWholeNumber, randomInt(2 ** 32))
  .option('--attacks <names>', `comma-separated, from ${ATTACKS.join(', ')}; all by default`, parseAttacks, ATTACKS)
  .action(async (options: HostileBenchOptions) => (await import('./hostile/hostile.ts')).benchHostile(options))

command
  .command('cpu')
  .description('seconds per image of nano on the CPU, against diffusers (needs Python with diffusers)')
  .addOption(pythonOption())
  .option('--threads <count>', 'threads of each', Number, os.availableParallelism())
  .option('--runs <count>', 'timed images of each', Number, 5)
  .action(async (options: CpuBenchOptions) => (await import('./cpu.ts')).benchCpu(options))

/** A command about one model: nano, or an architecture with random weights. */
const modelCommand = (name: string, description: string) =>
  command
    .command(name)
    .description(description)
    .addOption(
      new Option('--model <name>').choices(['nano', ...FULL_SIZES, ...Object.keys(TINY_VARIANTS)]).default('nano'),
    )
    .addOption(new Option('--target <target>').choices(['cpu', 'cuda', 'cuda-fp8']).default('cpu'))
    .option(
      '--directory <path>',
      'checkpoint and package of models with random weights',
      path.join(os.tmpdir(), 'octet-gpu'),
    )

modelCommand(
  'lora',
  "a step with two adapters against none, the time of a change of adapters, and nano's images in FP8 against float32",
)
  .option('--size <pixels>', 'side of the image', Number, 256)
  .option('--rank <count>', 'rank of each adapter', Number, 16)
  .option('--steps <count>', 'timed steps of each round', Number, 8)
  .option('--rounds <count>', 'rounds', Number, 3)
  .action(async (options: LoraBenchOptions) => (await import('./additions/lora.ts')).benchLora(options))

modelCommand('parallel', 'guidance with its samples divided over several devices, against one device')
  .option('--size <pixels>', 'side of the image', Number, 256)
  .option('--devices <count>', 'devices; on a CPU, sessions with a share of the cores each', parseWholeNumber, 2)
  .option('--runs <count>', 'timed steps of each way', Number, 20)
  .option('--steps <count>', 'steps of the images', Number, 28)
  .action(async (options: ParallelBenchOptions) => (await import('./parallel.ts')).benchParallel(options))

command
  .command('controlnet')
  .description('a step with a ControlNet against one without, and one without after it')
  .addOption(new Option('--model <name>').choices(['large', 'tiny-large']).default('tiny-large'))
  .addOption(new Option('--target <target>').choices(['cpu', 'cuda', 'cuda-fp8']).default('cpu'))
  .option('--directory <path>', 'checkpoints and packages with random weights', path.join(os.tmpdir(), 'octet-gpu'))
  .option('--size <pixels>', 'side of the image', Number, 256)
  .option('--steps <count>', 'timed steps of each round', Number, 8)
  .option('--rounds <count>', 'rounds', Number, 3)
  .action(async (options: ControlnetBenchOptions) =>
    (await import('./additions/controlnet.ts')).benchControlnet(options),
  )

command
  .command('parity')
  .description('difference between images of nano and of diffusers on the CPU (needs Python with diffusers)')
  .addOption(pythonOption())
  .option('--threads <count>', 'threads of each', Number, os.availableParallelism())
  .option('--prompts <count>', 'images of each model', Number, 20)
  .action(async (options: ParityOptions) => (await import('./cpu.ts')).benchParity(options))

command
  .command('kernels')
  .description('rates of the FP8 operators at the sizes of Large (needs a GPU, gpu-fn/kernels/build and PyTorch)')
  .addOption(pythonOption())
  .action(async (options: KernelsOptions) => (await import('./kernels.ts')).benchKernels(options))

command
  .command('png')
  .description('PNG encoding, against sharp')
  .argument('[files...]', 'images; those of the model card by default')
  .option('--runs <count>', 'timed runs of each', Number, 9)
  .action(async (files: string[], options: PngBenchOptions) => (await import('./png.ts')).benchPng(files, options))

command
  .command('precision')
  .description("number formats of adaLN and T5 weights: errors of the networks and PSNR of nano's images, on the CPU")
  .addOption(new Option('--model <name>').choices(['nano', ...Object.keys(TINY_VARIANTS)]).default('nano'))
  .option('--prompts <count>', 'prompts from the set of `npm run quality`', parseWholeNumber, 6)
  .option('--steps <count>', 'steps per image; default: those of the model', parseWholeNumber)
  .action(async (options: PrecisionBenchOptions) => (await import('./precision/precision.ts')).benchPrecision(options))

modelCommand(
  'schedule',
  'mixed load under the GPU scheduler and first come, first served: a simulation with times of an H200',
)
  .option('--minutes <count>', 'duration of each load; 0 omits them', Number, 120)
  .option('--loads <shares>', 'loads relative to the capacity, comma-separated', parseNumbers, [0.7, 0.95])
  .option('--overload <minutes>', 'duration of the load of twice the capacity; 0 omits it', Number, 10)
  .option('--seed <number>', 'seed of the traces', parseWholeNumber, 1)
  .option('--aging <seconds>', 'longest time from acceptance to image', Number, 60)
  .option('--real', 'run GPU functions with the model instead')
  .option('--size <pixels>', 'width and height', Number, 256)
  .action(async (options: ScheduleBenchOptions) => (await import('./schedule/schedule.ts')).benchSchedule(options))

command
  .command('soak')
  .description('random faults of the GPU function under load: no job may be lost, wrong or stuck')
  .option('--minutes <count>', 'duration', Number, 20)
  .option('--faults <count>', 'number of faults', Number, 500)
  .option('--callers <count>', 'concurrent callers', Number, 6)
  .option('--seed <number>', 'seed of faults and requests', parseWholeNumber, 1)
  .action(async (options: SoakOptions) => (await import('./soak/soak.ts')).benchSoak(options))

command
  .command('step')
  .description('one denoising step at full size with random weights, FP8 against 16-bit (needs a GPU and the kernels)')
  .addOption(variantOption())
  .addOption(new Option('--tier <tier>', 'precision of the weights').choices(['fp8', 'fp8-int4']).default('fp8'))
  .option('--size <pixels>', 'width and height', Number, 1024)
  .option('--batch <count>', 'batch size', Number, 1)
  .option('--blocks <count>', 'transformer blocks; all of the variant by default', Number)
  .option('--runs <count>', 'timed runs', Number, 20)
  .action(async (options: StepOptions) => (await import('./step.ts')).benchStep(options))

command
  .command('stream')
  .description('package download from a local S3 server to disk, against curl (needs curl and disk for three packages)')
  .option('--gigabytes <count>', 'size of the package', Number, 2)
  .option('--runs <count>', 'timed rounds', Number, 5)
  .option('--directory <path>', 'scratch directory; the system one by default')
  .action(async (options: StreamBenchOptions) => (await import('./stream.ts')).benchStream(options))

command
  .command('gpu')
  .description('full-size SD3.5 with random weights, against PyTorch (needs Python with diffusers; 110 GB for large)')
  .addOption(
    new Option('--variant <name>', 'architecture of the random weights')
      .choices([...FULL_SIZES, ...Object.keys(TINY_VARIANTS)])
      .default('large'),
  )
  .addOption(new Option('--device <device>', 'cpu is a dry run').choices(['cuda', 'cpu']).default('cuda'))
  .option('--directory <path>', 'persistent checkpoint and packages', path.join(os.tmpdir(), 'octet-bench-gpu'))
  .addOption(pythonOption())
  .option('--out <file>', 'JSON lines file to append figures to', 'gpu.jsonl')
  .option('--sizes <sizes>', 'comma-separated', parseList, ['1024x1024', '1024x768', '512x512'])
  .option('--full-sizes <sizes>', 'sizes of images with all steps and guidance', parseList, ['1024x1024'])
  .option('--steps <count>', 'steps of an image with all steps', Number, 28)
  .option('--runs <count>', 'timed runs of everything else', Number, 5)
  .option('--systems <names>', 'comma-separated; all by default', parseList)
  .option('--seconds <count>', 'time limit of each system', Number, 300)
  .option('--cold-directory <path>', 'directory on a disk, for a start with an empty page cache (needs root)')
  .option('--whole', 'apply torch.compile to the whole transformer instead of each block', false)
  .action(async (options: GpuBenchOptions) => (await import('./gpu/gpu.ts')).benchGpu(options))

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
