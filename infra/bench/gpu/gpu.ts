// Performance of full-size SD3.5 on a GPU: Octet in every precision and PyTorch, with the same random weights. Every system runs in a
// separate process, whose failure does not affect the others. Figures are written as soon as they are available.
import fs from 'node:fs/promises'
import path from 'node:path'
import { listGpus } from '../../../gpu-fn/engine/device.ts'
import { copyCold } from './cold.ts'
import { formatPackageName, type GpuVariant, makeCheckpoint, makePackage } from './packages.ts'
import type { OctetPlan, TorchPlan } from './plan.ts'
import { Recorder } from './recorder.ts'
import { measureStart } from './start.ts'
import { listSystems, type System } from './systems.ts'
import { ARTICLE_SIZE, tableOf } from './table.ts'

export type GpuBenchOptions = {
  readonly variant: GpuVariant
  readonly device: 'cuda' | 'cpu'
  readonly directory: string
  readonly python: string
  readonly out: string
  readonly sizes: readonly string[]
  readonly fullSizes: readonly string[]
  readonly steps: number
  readonly runs: number
  readonly systems?: readonly string[]
  readonly seconds: number
  readonly whole: boolean
  /** Directory on a disk, for a start with an empty page cache. */
  readonly coldDirectory?: string
}

type Defaults = Pick<GpuBenchOptions, 'variant' | 'out' | 'sizes' | 'fullSizes'>
/** Command-line options. Omitted ones get the defaults of the report. */
export type GivenGpuOptions = Omit<GpuBenchOptions, keyof Defaults> & Partial<Defaults>

type Run = { options: GpuBenchOptions /** Directory of all files of this variant. */; work: string; recorder: Recorder }

const PROMPT = 'a red heart on a blue sky above a green field, with a small house to the left'
const OCTET = path.join(import.meta.dirname, 'octet.ts')
const TORCH = path.join(import.meta.dirname, 'gpu_torch.py')

const DEFAULTS: Defaults = {
  ...{ variant: 'large' as const, out: 'gpu.jsonl' },
  ...{ sizes: ['1024x1024', '1024x768', '512x512'], fullSizes: ['1024x1024'] },
}

/** Measures all systems, or those in `systems`, appends figures to `out`, and prints them as a table. */
export async function benchGpu(given: GivenGpuOptions): Promise<void> {
  const options: GpuBenchOptions = { ...DEFAULTS, ...given }
  const { variant, device, directory, out, seconds } = options
  const all = listSystems(device, variant)
  const names = options.systems ?? Object.keys(all)
  const unknown = names.filter((name) => !(name in all))
  if (unknown.length > 0)
    throw new Error(
      `--systems names unknown systems: ${unknown.join(', ')}; choose from ${Object.keys(all).join(', ')}`,
    )
  const work = path.join(directory, variant)
  await fs.mkdir(path.join(work, 'reference'), { recursive: true })
  const [gpu] = await listGpus()
  const recorder = new Recorder({ variant, device: gpu?.name ?? device, out, work, seconds })
  const run: Run = { options, work, recorder }
  try {
    await recorder.recordDuration('checkpoint', () => makeCheckpoint(variant, work))
    // Starts need no reference.
    if (names.some((name) => all[name]!.kind !== 'start')) await recorder.attempt('reference', () => makeReference(run))
    for (const name of names) await recorder.attempt(name, () => measure(run, name, all[name]!))
  } finally {
    await recorder.close()
  }
  console.log(tableOf(recorder.figures))
}

/** Computes the reference results for all comparisons, unless they exist. */
async function makeReference(run: Run): Promise<void> {
  const done = path.join(run.work, 'reference', 'done')
  if (await fs.access(done).catch(() => true)) {
    await measureTorch(run, 'reference', 'reference')
    await fs.writeFile(done, '')
  }
}

async function measure(run: Run, name: string, system: System): Promise<void> {
  if (system.kind === 'torch') return measureTorch(run, name, system.way, system.article)
  const { variant } = run.options
  const { target, tier } = system
  const about = { variant, target, tier, small: system.kind === 'octet' && system.small }
  await run.recorder.recordDuration(`package ${target} ${tier}`, () => makePackage(about, run.work))
  const directory = path.join(run.work, formatPackageName(about))
  if (system.kind === 'octet') await measureOctet(run, name, path.join(directory, 'package'), system.gigabytes)
  else await measureStarting(run, name, system.cold ? await makeCold(run, directory) : directory, tier)
}

const createCommonPlan = ({ options, work }: Run, system: string) => ({
  ...{ system, reference: path.join(work, 'reference'), sizes: options.sizes, fullSizes: options.fullSizes },
  ...{ steps: options.steps, runs: options.runs, prompt: PROMPT, seed: 1, timestep: 857.7 },
})

async function measureTorch(run: Run, system: string, way: TorchPlan['way'], article = false): Promise<void> {
  const { options, work } = run
  const checkpoint = path.join(work, 'checkpoint')
  const { in_channels, joint_attention_dim } = await readJson(path.join(checkpoint, 'transformer', 'config.json'))
  const { block_out_channels } = await readJson(path.join(checkpoint, 'vae', 'config.json'))
  const only = options.sizes.find((size) => size === ARTICLE_SIZE) ?? options.sizes[0]!
  const plan: TorchPlan = {
    ...createCommonPlan(run, system),
    ...{ way, whole: options.whole, device: options.device, checkpoint, bytes: await sumWeightBytes(checkpoint) },
    ...{ channels: in_channels, downsample: 2 ** (block_out_channels.length - 1), jointWidth: joint_attention_dim },
    ...(article && { imagesOnly: true, sizes: [only], fullSizes: [] }),
    started: Date.now(),
  }
  await run.recorder.runProgram(system, [options.python, TORCH], plan)
}

async function measureOctet(run: Run, system: string, directory: string, gigabytes?: number): Promise<void> {
  const plan: OctetPlan = { ...createCommonPlan(run, system), package: directory }
  // A budget does not affect the speed of single networks.
  const isWithin = (budget: number) => ({ budget, imagesOnly: true })
  await run.recorder.runProgram(system, [process.execPath, OCTET], {
    ...plan,
    ...(gigabytes !== undefined && isWithin(gigabytes * 2 ** 30)),
  })
}

async function measureStarting({ options, recorder }: Run, system: string, packages: string, tier: string) {
  const size = options.sizes[0]!
  recorder.recordPeak(system, 'before')
  const image = { packages, model: options.variant, tier, size, prompt: PROMPT, seed: 1 }
  await measureStart(image, (given) => recorder.handleLine(system, given))
  recorder.recordPeak(system, 'start', size)
}

async function makeCold({ options: { coldDirectory } }: Run, packages: string): Promise<string> {
  if (!coldDirectory) throw new Error('skipped, because --cold-directory is not set')
  await copyCold(packages, coldDirectory)
  return coldDirectory
}

async function sumWeightBytes(checkpoint: string): Promise<number> {
  let bytes = 0
  for await (const file of fs.glob('*/*.safetensors', { cwd: checkpoint }))
    bytes += (await fs.stat(path.join(checkpoint, file))).size
  return bytes
}

const readJson = async (file: string) => JSON.parse(await fs.readFile(file, 'utf8'))
