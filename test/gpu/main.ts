// `npm run test:gpu`: correctness on an NVIDIA GPU, with figures. `npm test` covers everything that a CPU can run.
import { Command, Option } from 'commander'
import { hasT5, TIERS } from '../../gpu-fn/contract.ts'
import { TARGETS } from '../../gpu-fn/manifest.ts'
import { TINY_VARIANTS } from '../../infra/checkpoints/tiny/variants.ts'
import { endOnSignals } from '../../infra/command/end-on-signals.ts'
import { parseWholeNumber } from '../../infra/command/numbers.ts'
import { BUILT_IN_MODELS } from '../../infra/local/models/built-in-model.ts'
import type { CaptureOptions } from './capture.ts'
import type { OffloadOptions } from './offload/offload.ts'
import { requireGpu } from './requirements.ts'
import type { TargetsOptions } from './targets.ts'

endOnSignals()
const MODELS = [...Object.keys(TINY_VARIANTS), 'tiny-loud', ...BUILT_IN_MODELS] as TargetsOptions['model'][]
const OFFLOAD_ROUNDS = 50
const CONTENDING_IMAGES = 8
const CAPTURE_ROUNDS = 20
const GPU_TARGETS = TARGETS.filter((target) => target !== 'cpu')

async function checkKernels({ except }: { except: string[] }): Promise<void> {
  const { compareKernels, OPERATORS } = await import('./kernels.ts')
  const unknown = except.find((name) => !OPERATORS.includes(name))
  if (unknown !== undefined)
    throw new Error(`--except names the unknown operator "${unknown}"; choose from: ${OPERATORS.join(', ')}`)
  await compareKernels({ except })
}

async function checkTargets(options: TargetsOptions): Promise<void> {
  const { compareTargets } = await import('./targets.ts')
  await compareTargets(options)
}

async function checkLoras(): Promise<void> {
  const { compareLoras } = await import('./loras.ts')
  for (const target of GPU_TARGETS) await compareLoras(target)
}

async function checkControlnets(): Promise<void> {
  const { compareControlnets } = await import('./controlnets.ts')
  await compareControlnets()
}

async function checkContention(options: { images: number }): Promise<void> {
  const { repeatUnderContention } = await import('./contention.ts')
  await repeatUnderContention(options)
}

async function checkCapture(options: CaptureOptions): Promise<void> {
  const { compareCaptures } = await import('./capture.ts')
  await compareCaptures(options)
}

async function checkOffload(options: OffloadOptions): Promise<void> {
  const { checkOffloading } = await import('./offload/offload.ts')
  await checkOffloading(options)
}

/** Runs all checks, even after a failure. */
async function checkAll(): Promise<void> {
  const checks = [
    () => checkKernels({ except: [] }),
    ...GPU_TARGETS.flatMap((target) => MODELS.map((model) => () => checkTargets({ model, tier: 'fp8', target }))),
    checkLoras,
    checkControlnets,
    () => checkCapture({ rounds: CAPTURE_ROUNDS }),
    () => checkOffload({ rounds: OFFLOAD_ROUNDS }),
    () => checkContention({ images: CONTENDING_IMAGES }),
  ]
  const failures: string[] = []
  for (const check of checks) await check().catch((error: Error) => failures.push(error.message))
  if (failures.length > 0) throw new Error(failures.join('\n'))
}

const command = new Command('test:gpu')
  .description(
    'Compares the GPU with the CPU: every FP8 operator, every network, and images. Runs all checks by default.',
  )
  .hook('preAction', requireGpu)
  .action(checkAll)

command
  .command('kernels')
  .description('every FP8 operator against its definition')
  .option('--except <operators>', 'operators to omit, comma-separated', (names) => names.split(','), [])
  .action(checkKernels)

command
  .command('targets')
  .description('every output of every network, and images, with tiny random weights or nano')
  .addOption(new Option('--model <name>', 'model under test').choices(MODELS).default('tiny-medium'))
  .addOption(
    new Option('--tier <tier>', 'precision of the weights')
      .choices(TIERS.filter((tier) => hasT5(tier) && tier !== 'fp32'))
      .default('fp8'),
  )
  .addOption(new Option('--target <target>', 'target under test').choices(GPU_TARGETS).default('cuda-fp8'))
  .option('--layers', 'also compare the input of each transformer block')
  .option('--small', 'with adaLN in 8 bits and T5 in 4')
  .action(checkTargets)

command
  .command('loras')
  .description('networks of target cuda with adapters, and after them, with tiny random weights')
  .action(() => checkLoras())

command
  .command('controlnets')
  .description('images with a ControlNet, and after it, with tiny random weights')
  .action(() => checkControlnets())

command
  .command('capture')
  .description('steps as CUDA graphs against ordinary ones, with other sessions between them')
  .option('--rounds <count>', 'runs of each shape', parseWholeNumber, CAPTURE_ROUNDS)
  .action(checkCapture)

command
  .command('offload')
  .description('networks that use the same memory alternately')
  .option('--rounds <count>', 'turns of each network', parseWholeNumber, OFFLOAD_ROUNDS)
  .option('--events', 'also order copies and runs by events between their streams')
  .option('--resident', 'leave the weights on the GPU')
  .action(checkOffload)

command
  .command('contention')
  .description('repeated images of nano under background load on the GPU')
  .option(
    '--images <count>',
    'number of images with all weights on the GPU, and with offloaded weights',
    parseWholeNumber,
    CONTENDING_IMAGES,
  )
  .action(checkContention)

await command.parseAsync().catch((error: Error) => {
  console.error(`test:gpu: ${error.message}`)
  process.exitCode = 1
})
