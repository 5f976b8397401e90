// `npm run compile`: the command line of the compiler.
import { constants } from 'node:os'
import path from 'node:path'
import { Command, Option } from 'commander'
import { escapeText, TIERS } from '../contract.ts'
import { CONTROL_TYPES, type ControlType, type Manifest, manifest, TARGETS } from '../manifest.ts'
import { FAMILIES, FAMILY_NAMES } from '../models/families.ts'
import { CheckpointError } from './checkpoint/error.ts'
import { readSmallFile } from './checkpoint/formats/file-kind.ts'
import { type CompiledPackage, type CompileOptions, compile } from './compile.ts'
import { compileControlnet } from './controlnet.ts'
import { ADALN_BITS, T5_BITS } from './graph/model.ts'
import { compileLora } from './lora/lora.ts'
import { discardPartial, MANIFEST_BYTES } from './place.ts'
import { showProgress } from './progress.ts'
import type { Progress } from './write/package-writer.ts'

type Flags = Omit<CompileOptions, 'onProgress' | 'onNote' | 'checkpoint'> & {
  checkpoint?: string[]
  lora?: string
  package?: string
  controlnet?: string
  controlType?: ControlType
}

const collect = (value: string, previous: string[] = []) => [...previous, value]

const variants = FAMILY_NAMES.map((name) => FAMILIES[name].variants.join(', ')).join('; ')

const command = new Command('compile')
  .description(
    'Compiles a checkpoint, a LoRA for a compiled checkpoint, or a ControlNet into a package that the GPU function serves.',
  )
  .option(
    '--checkpoint <path>',
    'a diffusers directory or one of its folders, or a safetensors or GGUF file or an index (repeat it; later networks replace earlier ones)',
    collect,
  )
  .requiredOption(
    '--out <directory>',
    'output directory; for a LoRA or a ControlNet, a directory in `loras` or `controlnets` beside the packages',
  )
  .option(
    '--lora <file>',
    'a LoRA instead of a checkpoint: a safetensors file from PEFT, diffusers, kohya or another trainer',
  )
  .option('--package <directory>', 'with --lora: a package of the base, in any tier and for any target')
  .option(
    '--controlnet <path>',
    "a ControlNet of SD3.5 Large instead of a checkpoint: a diffusers directory, or Stability's safetensors file",
  )
  .addOption(
    new Option(
      '--control-type <type>',
      'required with --controlnet if neither the file nor its name states the type',
    ).choices(CONTROL_TYPES),
  )
  .addOption(new Option('--family <family>', 'network family of the checkpoint').choices(FAMILY_NAMES).default('sd35'))
  .addOption(new Option('--tier <tier>', 'precision of the weights').choices(TIERS).default('fp8'))
  .addOption(
    new Option('--target <target>', 'cuda-fp8 multiplies in FP8, or runs as cuda on GPUs that do not support it')
      .choices(TARGETS)
      .default('cpu'),
  )
  .option('--variant <name>', `${variants}, or custom for other shapes; derived from the tensors by default`)
  .option(
    '--scheduler <file>',
    "a scheduler_config.json, in place of the checkpoint's; for distilled weights in a single file",
  )
  .option('--steps <count>', "default steps of the package; the variant's by default", Number)
  .option('--guidance-scale <scale>', "default guidance scale of the package; the variant's by default", Number)
  .option('--name <name>', 'model name in requests; the variant by default')
  .option(
    '--tokenizers <directory>',
    "directory with the tokenizers' directories, or hub for the published tokenizers, for checkpoints without them",
  )
  .option('--hub <url>', "address of another server with the Hugging Face hub's API, for --tokenizers hub")
  .addOption(
    new Option(
      '--adaln-bits <bits>',
      'bits per adaLN weight in tiers with FP8, by default 16, or 8 in tier fp8-int4; 8 reduces the package of Large by 2.6 GB',
    )
      .choices(ADALN_BITS.map(String))
      .argParser(Number),
  )
  .addOption(
    new Option(
      '--t5-bits <bits>',
      'bits per T5 weight in tiers with FP8, by default 8 (FP8), or 4 in tier fp8-int4; 4 reduces the package of Large by 2 GB',
    )
      .choices(T5_BITS.map(String))
      .argParser(Number),
  )
  .option('--omit-t5', 'leave out T5, or compile a checkpoint without it: 256 rows of zeros take its place')
  .option('--allow-missing-encoders', 'compile a checkpoint without CLIP or T5: prompts then have little or no effect')

async function main(): Promise<void> {
  // Paths are relative to the directory from which npm was called, even with `npm --prefix`.
  if (process.env.npm_lifecycle_event === 'compile' && process.env.INIT_CWD) process.chdir(process.env.INIT_CWD)
  const flags = command.parse().opts<Flags>()
  const started = performance.now()
  const progress = showProgress()
  const discard = (signal: 'SIGINT' | 'SIGTERM') => {
    discardPartial(flags.out)
    process.exit(128 + constants.signals[signal])
  }
  process.once('SIGINT', discard).once('SIGTERM', discard)
  try {
    if (flags.controlnet !== undefined) {
      await runControlnet(flags, flags.controlnet, progress.update)
      return progress.stop()
    }
    if (flags.lora !== undefined) return await runLora(flags, flags.lora)
    const { checkpoint } = flags
    if (!checkpoint || flags.package !== undefined || flags.controlType !== undefined)
      throw new CheckpointError('options', 'give --checkpoint, --lora with --package, or --controlnet')
    const onNote = (note: string) => console.error(note)
    const compiled = await compile({ ...flags, checkpoint, onProgress: progress.update, onNote })
    progress.stop()
    report(compiled, flags.out, (performance.now() - started) / 1000)
  } catch (error) {
    progress.stop()
    console.error(describeError(error))
    process.exitCode = 1
  }
}

async function runLora({ checkpoint, package: base, out, name, family }: Flags, lora: string): Promise<void> {
  if (checkpoint || base === undefined)
    throw new CheckpointError('--lora', 'takes --package, a package of the base, and no --checkpoint')
  const compiled = await compileLora({ lora, base: await readBase(base), out, name, family })
  const { modules, rank, files } = compiled.manifest
  const bytes = Object.values(files).reduce((sum, file) => sum + file.bytes, 0)
  const networks = new Set(modules.map(({ network }) => network))
  print(`${compiled.manifest.name} (LoRA for ${compiled.manifest.variant}) → ${out}`)
  print(`${modules.length} modules of ${[...networks].join(', ')}, rank up to ${rank}, ${(bytes / 1e6).toFixed(1)} MB`)
  for (const note of compiled.notes) print(note)
}

async function runControlnet(flags: Flags, controlnet: string, onProgress: Progress): Promise<void> {
  const { checkpoint, lora, package: base, out, name, tier, target, family, controlType: type } = flags
  if (checkpoint || lora !== undefined || base !== undefined)
    throw new CheckpointError('--controlnet', 'takes no --checkpoint, --lora or --package')
  const compiled = await compileControlnet({ controlnet, out, name, tier, target, family, type, onProgress })
  const { manifest } = compiled
  const bytes = Object.values(manifest.files).reduce((sum, file) => sum + file.bytes, 0)
  print(`${manifest.name} (ControlNet ${manifest.type}, ${manifest.tier}, ${manifest.target}) → ${out}`)
  print(`${manifest.shape.layers} blocks of width ${manifest.shape.width}, ${(bytes / 1e6).toFixed(1)} MB`)
  for (const note of compiled.notes) print(note)
}

async function readBase(directory: string): Promise<Manifest> {
  const file = path.join(directory, 'manifest.json')
  const bytes = await readSmallFile(file, MANIFEST_BYTES)
  try {
    return manifest.parse(JSON.parse(new TextDecoder().decode(bytes)))
  } catch (cause) {
    throw new CheckpointError(file, 'is not the manifest of a package that this version compiled', { cause })
  }
}

/** The message of an error of the checkpoint, or the stack of another error, escaped for the terminal. */
function describeError(error: unknown): string {
  if (error instanceof CheckpointError) return escapeText(`compile: ${error.message}`)
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
  return text.split('\n').map(escapeText).join('\n')
}

function report({ manifest: about, sourceBytes, packageBytes, notes }: CompiledPackage, out: string, seconds: number) {
  const { model, variant, tier, target } = about
  const rate = (sourceBytes / 1e6 / seconds).toFixed(0)
  const formatSize = (bytes: number) =>
    bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`
  print(`${model} (${variant}, ${tier}, ${target}) → ${out}`)
  print(
    `${formatSize(sourceBytes)} read, ${formatSize(packageBytes)} written in ${seconds.toFixed(1)} s, ${rate} MB/s, ${measurePeakMegabytes()} MB peak memory`,
  )
  for (const note of notes) print(note)
}

/** Prints a line, which may have names from the checkpoint. */
const print = (line: string) => console.log(escapeText(line))

const measurePeakMegabytes = () => Math.round(process.resourceUsage().maxRSS / 1024)

await main()
