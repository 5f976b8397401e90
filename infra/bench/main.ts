// `npm run bench -- compile|cpu|edge|gpu|gpu-table|hostile|kernels|parity|qkv|step|stream|targets`: the figures in the README.
import { randomInt } from 'node:crypto'
import os from 'node:os'
import path from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { endOnSignals } from '../end-on-signals.ts'
import { wholeNumber } from '../whole-number.ts'
import { benchCompile, type CompileBenchOptions } from './compile.ts'
import { benchCpu, benchParity, type CpuBenchOptions, type ParityOptions } from './cpu.ts'
import { PYTHON } from './diffusers.ts'
import { benchEdge, type EdgeBenchOptions } from './edge.ts'
import { benchGpu, type GpuBenchOptions } from './gpu.ts'
import { benchGpuTable } from './gpu-table.ts'
import { ATTACKS } from './hostile/attacks.ts'
import { benchHostile, type HostileBenchOptions } from './hostile.ts'
import { benchKernels, type KernelsOptions } from './kernels.ts'
import { benchPng, type PngBenchOptions } from './png.ts'
import { benchQkv, type QkvOptions } from './qkv.ts'
import { benchStep, type StepOptions } from './step.ts'
import { benchStream, type StreamBenchOptions } from './stream.ts'
import { benchTargets, type TargetsOptions } from './targets.ts'

endOnSignals()
const command = new Command('bench').description('Measures; every figure is printed beside what it is compared with.')
const numbers = (text: string) => text.split(',').map(Number)
const python = () => new Option('--python <path>', 'a Python that has diffusers, or OCTET_PYTHON').default(PYTHON)
const variant = () => new Option('--variant <name>', 'shape of the random weights').choices(['large', 'medium'])

command
  .command('compile')
  .description('a full-size checkpoint to FP8, against cp (needs 45 GB of disk for large)')
  .addOption(variant().default('large'))
  .option('--directory <path>', 'where the files go; the temporary directory by default')
  .action((options: CompileBenchOptions) => benchCompile(options))

command
  .command('edge')
  .description('the worker in front of a GPU that answers at once, against a Hono route that does nothing')
  .option('--requests <count>', 'timed requests of each kind', Number, 100)
  .option('--in-flight <counts>', 'jobs in flight, growing, separated by commas', numbers, [10, 100, 1000])
  .option('--rows <count>', 'rows of the ledger', Number, 1_000_000)
  .action((options: EdgeBenchOptions) => benchEdge(options))

function attacks(text: string): string[] {
  const names = text.split(',').map((name) => name.trim())
  const unknown = names.find((name) => !ATTACKS.includes(name))
  if (unknown === undefined) return names
  throw new InvalidArgumentError(`unknown attack "${unknown}"; choose from: ${ATTACKS.join(', ')}`)
}

command
  .command('hostile')
  .description('open-loop load at twice the capacity: honest callers alone, then with hostile ones')
  .option('--minutes <count>', 'duration with hostile callers; without them, half of it', Number, 10)
  .option('--seed <number>', 'seed of all arrivals; random by default', wholeNumber, randomInt(2 ** 32))
  .option('--attacks <names>', `comma-separated, from ${ATTACKS.join(', ')}; all by default`, attacks, ATTACKS)
  .action((options: HostileBenchOptions) => benchHostile(options))

command
  .command('cpu')
  .description('nano against diffusers on the CPU: seconds an image (needs Python with diffusers)')
  .addOption(python())
  .option('--threads <count>', 'of each', Number, os.availableParallelism())
  .option('--runs <count>', 'timed images of each', Number, 5)
  .action((options: CpuBenchOptions) => benchCpu(options))

command
  .command('parity')
  .description('nano against diffusers on the CPU: the same pictures? (needs Python with diffusers)')
  .addOption(python())
  .option('--threads <count>', 'of each', Number, os.availableParallelism())
  .option('--prompts <count>', 'how many pictures of each model', Number, 20)
  .action((options: ParityOptions) => benchParity(options))

command
  .command('qkv')
  .description('one product for q, k and v against three')
  .addOption(variant().default('medium'))
  .addOption(new Option('--target <target>').choices(['cpu', 'cuda']).default('cpu'))
  .addOption(new Option('--tier <tier>').choices(['fp8', 'fp16', 'fp32']).default('fp8'))
  .option('--blocks <count>', 'transformer blocks', Number, 2)
  .option('--size <pixels>', 'width and height', Number, 256)
  .option('--runs <count>', 'timed runs of each', Number, 9)
  .action((options: QkvOptions) => benchQkv(options))

command
  .command('kernels')
  .description(
    'every FP8 operator on the GPU against its definition on the CPU (needs a GPU and gpu-fn/kernels/build), and its rate (needs PyTorch)',
  )
  .addOption(new Option('--python <path>', 'a Python that has PyTorch, or OCTET_PYTHON').default(PYTHON))
  .action((options: KernelsOptions) => benchKernels(options))

command
  .command('png')
  .description('pictures to PNG, beside sharp')
  .argument('[files...]', "pictures; the model card's by default")
  .option('--runs <count>', 'timed runs of each', Number, 9)
  .action((files: string[], options: PngBenchOptions) => benchPng(files, options))

command
  .command('step')
  .description(
    'one step of a full-size denoiser on random weights, in FP8 and in 16-bit products (needs a GPU and the kernels)',
  )
  .addOption(variant().default('large'))
  .option('--size <pixels>', 'width and height', Number, 1024)
  .option('--batch <count>', 'samples', Number, 1)
  .option('--blocks <count>', "transformer blocks; all of the variant's by default", Number)
  .option('--runs <count>', 'timed runs', Number, 20)
  .action((options: StepOptions) => benchStep(options))

command
  .command('stream')
  .description('a package from a local S3 server to disk, against curl (needs curl and three times the disk)')
  .option('--gigabytes <count>', 'size of the package', Number, 2)
  .option('--runs <count>', 'timed rounds', Number, 5)
  .option('--directory <path>', 'where the files go; the temporary directory by default')
  .action((options: StreamBenchOptions) => benchStream(options))

command
  .command('targets')
  .description('every network on CUDA against the CPU, on tiny random weights or nano (needs a GPU)')
  .addOption(
    new Option('--model <name>')
      .choices(['tiny-medium', 'tiny-large', 'tiny-loud', 'nano', 'nano-turbo'])
      .default('tiny-medium'),
  )
  .addOption(new Option('--tier <tier>').choices(['fp8', 'fp16']).default('fp8'))
  .addOption(new Option('--target <target>').choices(['cuda', 'cuda-fp8']).default('cuda-fp8'))
  .option('--layers', "the denoiser's streams before each block as well")
  .action((options: TargetsOptions) => benchTargets(options))

const words = (text: string) => text.split(',')
command
  .command('gpu')
  .description(
    'SD3.5 of full size with random weights: Octet beside PyTorch (needs Python with diffusers; 110 GB for large)',
  )
  .addOption(new Option('--variant <name>').choices(['large', 'medium', 'tiny-medium', 'tiny-large']).default('large'))
  .addOption(new Option('--device <device>', 'cpu tries it out').choices(['cuda', 'cpu']).default('cuda'))
  .option('--directory <path>', 'where checkpoint and packages go, and stay', path.join(os.tmpdir(), 'octet-bench-gpu'))
  .addOption(python())
  .option('--out <file>', 'figures are appended as JSON lines', 'gpu.jsonl')
  .option('--sizes <sizes>', 'separated by commas', words, ['1024x1024', '1024x768', '512x512'])
  .option('--full-sizes <sizes>', 'of images with all steps and guidance', words, ['1024x1024'])
  .option('--steps <count>', 'of an image with all steps', Number, 28)
  .option('--runs <count>', 'timed runs of everything else', Number, 5)
  .option('--systems <names>', 'those only, separated by commas', words)
  .option('--seconds <count>', 'a system that takes longer is ended', Number, 300)
  .option('--cold-directory <path>', 'on a disk; for the start with nothing in the page cache (needs root)')
  .option('--whole', 'torch.compile the transformer in one piece and not block by block', false)
  .action((options: GpuBenchOptions) => benchGpu(options))

command
  .command('gpu-table')
  .description("the tables of files of figures, or the README's and docs/gpu.md's")
  .argument('<files...>', 'as `gpu` wrote them')
  .option('--write', 'put them into the README and docs/gpu.md')
  .action((files: string[], options: { write?: boolean }) => benchGpuTable({ files, ...options }))

await command.parseAsync().catch((error: Error) => {
  console.error(`bench: ${error.message}`)
  process.exitCode = 1
})
