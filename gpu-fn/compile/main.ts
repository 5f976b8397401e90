// `npm run compile`: the command line of the compiler.
import { constants } from 'node:os'
import { Command, Option } from 'commander'
import { CheckpointError } from './checkpoint/error.ts'
import { type CompileOptions, compile } from './compile.ts'
import { discardPartial } from './place.ts'
import { showProgress } from './progress.ts'

type Flags = Omit<CompileOptions, 'onProgress'>

const collect = (value: string, previous: string[] = []) => [...previous, value]

const command = new Command('compile')
  .description('Compiles an SD3.5 checkpoint into a package that the GPU function serves.')
  .requiredOption(
    '--checkpoint <path>',
    'a diffusers directory, or a safetensors file or index (repeat for encoders in files of their own)',
    collect,
  )
  .requiredOption('--out <directory>', 'where the package goes')
  .addOption(
    new Option('--tier <tier>', 'precision of the weights').choices(['fp8', 'fp8-lite', 'fp16', 'fp32']).default('fp8'),
  )
  .addOption(
    new Option(
      '--target <target>',
      'what to build for: cuda-fp8 multiplies in FP8 and falls back to what cuda does where the GPU cannot',
    )
      .choices(['cpu', 'cuda', 'cuda-fp8'])
      .default('cpu'),
  )
  .option(
    '--variant <name>',
    'large, large-turbo, medium, flash, nano, nano-turbo, or custom for other shapes; derived from the tensors by default',
  )
  .option('--name <name>', 'the name that a job asks for; the variant by default')
  .option(
    '--tokenizers <directory>',
    'holds tokenizer, tokenizer_2 and tokenizer_3, where the checkpoint does not bring them',
  )
  .option('--allow-missing-encoders', 'compile a checkpoint without CLIP: prompts then have little or no effect')

async function main(): Promise<void> {
  const flags = command.parse().opts<Flags>()
  const started = performance.now()
  const progress = showProgress()
  const interrupted = (signal: 'SIGINT' | 'SIGTERM') => {
    discardPartial(flags.out)
    process.exit(128 + constants.signals[signal])
  }
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted)
  try {
    const { manifest, sourceBytes, packageBytes, notes } = await compile({
      ...flags,
      onProgress: progress.update,
    })
    progress.stop()
    const seconds = (performance.now() - started) / 1000
    const rate = (sourceBytes / 1e6 / seconds).toFixed(0)
    const size = (bytes: number) => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`)
    console.log(`${manifest.model} (${manifest.variant}, ${manifest.tier}, ${manifest.target}) → ${flags.out}`)
    console.log(
      `${size(sourceBytes)} read, ${size(packageBytes)} written in ${seconds.toFixed(1)} s, ${rate} MB/s, ${peakMegabytes()} MB peak memory`,
    )
    for (const note of notes) console.log(note)
  } catch (error) {
    progress.stop()
    if (!(error instanceof CheckpointError)) throw error
    console.error(`compile: ${error.message}`)
    process.exitCode = 1
  }
}

const peakMegabytes = () => Math.round(process.resourceUsage().maxRSS / 1024)

await main()
