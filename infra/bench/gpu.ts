// SD3.5 of full size on a GPU: Octet in every precision beside PyTorch, from the same random weights, in one run. Every system has a
// process of its own and may fail alone; figures are written as they come.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import fs from 'node:fs/promises'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { psnr, readPixels } from '../compare-images.ts'
import { gpuName, type MemoryWatch, watchMemory } from './gpu-memory.ts'
import { type GpuVariant, makeCheckpoint, makePackage, type Target, type Tier } from './gpu-packages.ts'
import { type Figure, type Line, line, type OctetPlan, type TorchPlan } from './gpu-plan.ts'
import { measureStart } from './gpu-start.ts'
import { ARTICLE_SIZE, tableOf } from './gpu-table.ts'

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
  /** On a disk, for a start with nothing in the page cache. */
  readonly coldDirectory?: string
}

type System =
  | { readonly kind: 'torch'; readonly way: TorchPlan['way']; readonly article?: boolean }
  | { readonly kind: 'octet'; readonly target: Target; readonly tier: Tier; readonly gigabytes?: number }
  | { readonly kind: 'start'; readonly target: Target; readonly tier: Tier; readonly cold?: boolean }

/** In the order of their worth, should the run be cut off. */
const systemsFor = (device: 'cuda' | 'cpu', variant: GpuVariant): Record<string, System> => {
  const best: Target = device === 'cuda' ? 'cuda-fp8' : device
  const gigabytes = variant === 'large' ? 8 : 4
  return {
    'octet-fp8': { kind: 'octet', target: best, tier: 'fp8' },
    'torch-bf16': { kind: 'torch', way: 'eager' },
    [`octet-fp8-in-${gigabytes}gb`]: { kind: 'octet', target: best, tier: 'fp8', gigabytes },
    'torch-bf16-compile': { kind: 'torch', way: 'compile' },
    ...(device === 'cuda' && { 'octet-fp8-weight-only': { kind: 'octet', target: device, tier: 'fp8' } as const }),
    'start-fp8': { kind: 'start', target: best, tier: 'fp8' },
    'octet-fp8-lite': { kind: 'octet', target: best, tier: 'fp8-lite' },
    'octet-fp16': { kind: 'octet', target: device, tier: 'fp16' },
    'torch-fp8-weights': { kind: 'torch', way: 'fp8-weights' },
    'torch-torchao-compile': { kind: 'torch', way: 'torchao' },
    'torch-fp8-backbone': { kind: 'torch', way: 'fp8-backbone', article: true },
    'torch-fp8-lite': { kind: 'torch', way: 'fp8-lite', article: true },
    'octet-fp16-in-24gb': { kind: 'octet', target: device, tier: 'fp16', gigabytes: 24 },
    'start-fp8-cold': { kind: 'start', target: best, tier: 'fp8', cold: true },
  }
}

const articleSize = (sizes: readonly string[]) => sizes.find((size) => size === ARTICLE_SIZE) ?? sizes[0]!
const PROMPT = 'a red heart on a blue sky above a green field, with a small house to the left'
const OCTET = path.join(import.meta.dirname, 'gpu-octet.ts')
const TORCH = path.join(import.meta.dirname, 'gpu_torch.py')

type Run = {
  deviceName: string
  options: GpuBenchOptions
  work: string
  record: (figure: Figure) => void
  memory: MemoryWatch
  bytes: number
}

/** Measures every system, or those of `systems`; appends figures to `out` and prints the table of all. */
export async function benchGpu(options: GpuBenchOptions): Promise<void> {
  const { variant, device, directory, out } = options
  const work = path.join(directory, variant)
  const all = systemsFor(device, variant)
  const unknown = options.systems?.filter((name) => !(name in all))
  if (unknown?.length) throw new Error(`unknown: ${unknown.join(', ')}; there are ${Object.keys(all).join(', ')}`)
  await fs.mkdir(path.join(work, 'reference'), { recursive: true })
  const figures: Figure[] = []
  const lines = createWriteStream(out, { flags: 'a' })
  const record = (figure: Figure) => {
    figures.push(figure)
    lines.write(`${JSON.stringify(figure)}\n`)
    console.error(JSON.stringify(figure))
  }
  const memory = watchMemory()
  const run: Run = { deviceName: gpuName() ?? device, options, work, record, memory, bytes: 0 }
  try {
    await timed(run, 'checkpoint', () => makeCheckpoint(variant, work))
    run.bytes = await weightBytes(path.join(work, 'checkpoint'))
    if (!(await exists(path.join(work, 'reference', 'done')))) {
      await measureTorch(run, 'reference', 'reference')
      await fs.writeFile(path.join(work, 'reference', 'done'), '')
    }
    for (const name of options.systems ?? Object.keys(all)) await measure(run, name, all[name]!)
  } finally {
    memory.stop()
    lines.end()
  }
  console.log(tableOf(figures))
}

const figureOf = ({ options, deviceName }: Run, figure: Omit<Figure, 'variant' | 'device'>): Figure => ({
  ...{ variant: options.variant, device: deviceName },
  ...figure,
})

async function timed(run: Run, system: string, make: () => Promise<unknown>): Promise<void> {
  const start = performance.now()
  await make()
  const value = (performance.now() - start) / 1000
  run.record(figureOf(run, { system, metric: 'make_s', size: null, value }))
}

/** One system; whatever goes wrong is a figure, too. */
async function measure(run: Run, name: string, system: System): Promise<void> {
  try {
    if (system.kind === 'torch')
      return await measureTorch(run, name, system.way, system.article ? articleSize(run.options.sizes) : undefined)
    const { variant } = run.options
    const { target, tier } = system
    await timed(run, `package ${target} ${tier}`, () => makePackage({ variant, target, tier }, run.work))
    const directory = path.join(run.work, `${target}-${tier}`)
    if (system.kind === 'octet') return await measureOctet(run, name, path.join(directory, 'package'), system.gigabytes)
    const { coldDirectory } = run.options
    if (system.cold && !coldDirectory) return console.error(`${name}: left out without --cold-directory`)
    const packages = system.cold ? await makeCold(directory, coldDirectory!) : directory
    run.memory.peak()
    const size = run.options.sizes[0]!
    const image = { prompt: PROMPT, seed: 1, size, model: variant, tier }
    await measureStart({ packages, ...image }, (given) => take(run, name, given))
    takePeak(run, name, 'start', size)
  } catch (error) {
    run.record(figureOf(run, { system: name, metric: 'run', size: null, value: null, error: String(error) }))
  }
}

const common = ({ options, work }: Run, system: string) => ({
  ...{ system, reference: path.join(work, 'reference'), sizes: options.sizes, fullSizes: options.fullSizes },
  ...{ steps: options.steps, runs: options.runs, prompt: PROMPT, seed: 1, timestep: 857.7 },
})

async function measureTorch(run: Run, system: string, way: TorchPlan['way'], only?: string): Promise<void> {
  const { options, work, bytes } = run
  const checkpoint = path.join(work, 'checkpoint')
  const { in_channels, joint_attention_dim } = await readJson(path.join(checkpoint, 'transformer', 'config.json'))
  const { block_out_channels } = await readJson(path.join(checkpoint, 'vae', 'config.json'))
  const plan: TorchPlan = {
    ...common(run, system),
    ...{ way, whole: options.whole, device: options.device, checkpoint, bytes },
    ...{ channels: in_channels, downsample: 2 ** (block_out_channels.length - 1), jointWidth: joint_attention_dim },
    ...(only && { imagesOnly: true, sizes: [only], fullSizes: [] }),
    started: Date.now(),
  }
  await runProgram(run, system, [options.python, TORCH], plan)
}

async function measureOctet(run: Run, system: string, directory: string, gigabytes?: number): Promise<void> {
  const plan: OctetPlan = {
    ...common(run, system),
    package: directory,
    // Each of these images opens every network again.
    ...(gigabytes !== undefined && {
      runs: Math.min(2, run.options.runs),
      budget: gigabytes * 2 ** 30,
      imagesOnly: true,
      fullSizes: [],
    }),
  }
  await runProgram(run, system, [process.execPath, OCTET], plan)
}

/** Runs a program on its plan and takes its lines. Throws when it does not end well in time. */
async function runProgram(run: Run, system: string, [command, script]: string[], plan: object): Promise<void> {
  const file = path.join(run.work, `${system}.json`)
  await fs.writeFile(file, JSON.stringify(plan))
  run.memory.peak()
  const child = spawn(command!, [script!, file], { stdio: ['ignore', 'pipe', 'inherit'] })
  const exited = once(child, 'close')
  const timer = setTimeout(() => child.kill('SIGKILL'), run.options.seconds * 1000)
  let phase: { phase: string; size?: string | null | undefined } | undefined
  let most = 0
  const endPhase = () => {
    if (phase) most = Math.max(most, takePeak(run, system, phase.phase, phase.size ?? null))
  }
  createInterface(child.stdout).on('line', (text) => {
    const parsed = line.safeParse(parseJson(text))
    if (!parsed.success) return console.error(`${system}: ${text}`)
    if ('phase' in parsed.data) {
      endPhase()
      phase = parsed.data
    }
    take(run, system, parsed.data)
  })
  const [code, signal] = await exited
  clearTimeout(timer)
  endPhase()
  if (most > 0) run.record(figureOf(run, { system, metric: 'peak_mib', size: null, value: most }))
  if (code !== 0) throw new Error(`ended with ${code ?? signal}`)
}

function takePeak(run: Run, system: string, phase: string, size: string | null): number {
  const value = run.memory.peak()
  if (value) run.record(figureOf(run, { system, metric: `peak_mib_${phase.replace(' ', '_')}`, size, value }))
  return value ?? 0
}

const pictures: Promise<void>[] = []

function take(run: Run, system: string, given: Line): void {
  const size = 'size' in given ? (given.size ?? null) : null
  if ('metric' in given) run.record(figureOf(run, { system, metric: given.metric, size, value: given.value }))
  else if ('failed' in given)
    run.record(figureOf(run, { system, metric: given.failed, size, value: null, error: given.error }))
  else if ('note' in given) console.error(`${system}: ${given.note}`)
  else if ('image' in given) pictures.push(comparePicture(run, system, given.image, size!))
}

/** How like the picture that the float32 reference made of the same noise. */
async function comparePicture(run: Run, system: string, file: string, size: string): Promise<void> {
  const [ours, theirs] = await Promise.all(
    [file, path.join(run.work, 'reference', `turbo-${size}.png`)].map((name) => readPixels(name)),
  )
  run.record(figureOf(run, { system, metric: 'psnr_db', size, value: Math.min(99, psnr(ours!, theirs!)) }))
}

async function weightBytes(checkpoint: string): Promise<number> {
  let bytes = 0
  for await (const file of fs.glob('*/*.safetensors', { cwd: checkpoint }))
    bytes += (await fs.stat(path.join(checkpoint, file))).size
  return bytes
}

/** A copy on a disk, out of the page cache. Needs to be root. */
async function makeCold(packages: string, directory: string): Promise<string> {
  await fs.cp(packages, directory, { recursive: true })
  spawnSync('sync')
  await fs.writeFile('/proc/sys/vm/drop_caches', '3')
  return directory
}

const exists = (file: string) =>
  fs.access(file).then(
    () => true,
    () => false,
  )
const readJson = async (file: string) => JSON.parse(await fs.readFile(file, 'utf8'))

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
