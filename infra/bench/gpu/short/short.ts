// `npm run bench -- gpu --short`: a report about this machine's GPU, in minutes. Failed parts are reported with their errors.
import fs from 'node:fs/promises'
import path from 'node:path'
import { listGpus } from '../../../../gpu-fn/engine/device.ts'
import { chooseTarget, prepareHardware } from '../../../local/hardware.ts'
import { callsOfStep, timeEach } from '../../operators/kernels.ts'
import { formatRatesTable } from '../../operators/table.ts'
import { requireTiming } from '../../operators/timing.ts'
import { peaksOf } from '../../operators/work.ts'
import type { GivenGpuOptions, GpuBenchOptions } from '../gpu.ts'
import type { Target } from '../packages.ts'
import { Recorder } from '../recorder.ts'
import { type Card, describeCpu, readCard } from './card.ts'
import { measureImages } from './images.ts'
import { describeSending } from './issue.ts'
import { checkKernels } from './kernel-cases.ts'
import { type Report, removePaths, reportOf } from './report.ts'

export type ShortOptions = Omit<GivenGpuOptions, 'systems' | 'whole' | 'coldDirectory'>

const STEP_PROGRAM = path.join(import.meta.dirname, 'step-program.ts')
const STEP_SIZE = '1024x1024'
/** GPU memory required for a step of Large (6.6 GiB) with FP8 and with 16-bit products. */
const LARGE_STEP_MIB = 8 * 1024
const DEFAULTS: Pick<GpuBenchOptions, 'out' | 'sizes' | 'fullSizes'> = {
  out: 'gpu-short.jsonl',
  sizes: ['1024x1024', '512x512'],
  fullSizes: ['1024x1024', '512x512'],
}

/** Measures the GPU, writes the figures and the report, and prints where to submit it. Throws if no supported GPU is found. */
export async function benchShort(given: ShortOptions): Promise<void> {
  const options = { ...DEFAULTS, ...given }
  const { out, sizes, fullSizes, steps, seconds } = options
  const target = await chooseHardware(options.device)
  const card = options.device === 'cpu' ? describeCpu() : await readCard()
  const choices: Choices = { target, images: chooseImages(options.variant), step: chooseStep(card) }
  const { variant } = choices.images
  const work = path.join(options.directory, variant)
  await fs.mkdir(work, { recursive: true })
  const recorder = new Recorder({ variant, device: card.gpu, out, work, seconds })
  const rates = await measureParts({ ...options, work, gpu: card.gpu }, choices, recorder).finally(() =>
    recorder.close(),
  )
  const { figures } = recorder
  const report = removePaths(reportOf({ ...choices, card, figures, sizes, fullSizes, steps, rates }))
  const file = path.resolve(`${out.replace(/\.jsonl$/, '')}.md`)
  await fs.writeFile(file, `${report}\n`)
  console.log(`\n${report}\n\n${describeSending(file)}`)
}

type Choices = {
  readonly target: { readonly name: Target; readonly reason: string }
  readonly images: ReturnType<typeof chooseImages>
  readonly step: ReturnType<typeof chooseStep>
}
type PartOptions = ShortOptions & typeof DEFAULTS & { readonly work: string; readonly gpu: string }

/** Measures every part, including those after a failed one. Returns the table of operator throughput; null if it was not measured. */
async function measureParts(options: PartOptions, choices: Choices, recorder: Recorder): Promise<string | null> {
  const { python, seconds, gpu } = options
  const { target, images, step } = choices
  let rates: string | null = null
  await recorder.attempt('kernels', () => checkKernels(recorder, seconds))
  await recorder.attempt('operators', async () => {
    requireTiming(python)
    const calls = await callsOfStep({ variant: 'large', size: 1024 })
    rates = formatRatesTable(await timeEach(python, calls, seconds), peaksOf(gpu))
  })
  await recorder.attempt('step', () => {
    if (target.name === 'cpu') throw new Error('a step can be timed only on a GPU')
    return recorder.runProgram('step', [process.execPath, STEP_PROGRAM], { ...step, runs: 2 * options.runs })
  })
  const own = { variant: images.variant, target: target.name }
  await recorder.attempt('images', () => measureImages({ ...options, ...own }, recorder))
  return rates
}

/** Chooses the target, adds the CUDA provider and builds the kernels. Throws an error with a remedy if no GPU is supported. */
async function chooseHardware(device: 'cuda' | 'cpu'): Promise<{ name: Target; reason: string }> {
  if (device === 'cpu') return { name: 'cpu', reason: 'a dry run' }
  const { target, reason } = chooseTarget(await listGpus())
  if (target === 'cpu')
    throw new Error(
      `gpu --short measures an NVIDIA GPU, and this machine has none that is supported: ${reason}. ` +
        'Run it on a host with such a GPU, its driver, CUDA 13 and cuDNN 9 (docs/performance.md, "Measure your GPU").',
    )
  return { name: await prepareHardware(undefined, undefined), reason }
}

/** Default: Medium, for less disk space and time. */
export const chooseImages = (variant: ShortOptions['variant']) =>
  variant === undefined
    ? ({ variant: 'medium', reason: 'Large takes 46 GB of disk instead of 27: --variant large' } as const)
    : { variant, reason: 'as requested' }

/** Large if it fits in GPU memory. Its weights are ranges of one small file, so disk space is no constraint. */
export function chooseStep({ memoryMib }: Pick<Card, 'memoryMib'>): Report['step'] & { variant: 'large' | 'medium' } {
  if (memoryMib !== null && memoryMib < LARGE_STEP_MIB)
    return { variant: 'medium', size: STEP_SIZE, reason: 'Large needs 8 GiB of GPU memory' }
  return { variant: 'large', size: STEP_SIZE, reason: 'random weights' }
}
