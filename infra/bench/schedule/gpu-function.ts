// A GPU function for one run of a trace, with its memory over time.
import { makeScratch } from '../../command/scratch.ts'
import { startGpu } from '../../local/servers/gpu.ts'
import { watchMemory } from '../gpu/memory.ts'
import { type Growth, groupBytes, growthOf, type Sample } from '../hostile/memory.ts'

export type FunctionOptions = {
  /** Directory of packages, and its models to load, as model:tier. */
  packages: string
  preload: readonly string[]
  size: number
  agingSeconds: number
  /** Index of its GPU; any one by default. */
  gpu?: string | undefined
  /** GPU memory limit in GiB. */
  vram?: string | undefined
  /** Additional environment variables. */
  settings?: Readonly<Record<string, string>>
  /** Called with each line of the JSON log. */
  onLog?: (line: string) => void
}

const SAMPLE_MS = 500
const MEBIBYTE = 2 ** 20

/** Starts a warm GPU function that retains no ended jobs, and stops it after `use`. */
export async function withFunction<T>(
  options: FunctionOptions,
  use: (url: string, watch: Watch) => T,
): Promise<Awaited<T>> {
  await using cache = makeScratch('octet-schedule-')
  const { packages, preload, size, agingSeconds, vram, onLog, gpu: index } = options
  const settings = {
    ...{ OCTET_CACHE: cache.directory, OCTET_WARM: `${size}x${size}`, OCTET_AGING_SECONDS: String(agingSeconds) },
    // Every job encodes its prompt, and first come, first served accepts all jobs.
    ...{ OCTET_PROMPT_CACHE_BYTES: '0', OCTET_RETAIN_SECONDS: '0', OCTET_QUEUE: '10000', OCTET_STALL_SECONDS: '600' },
    // nvidia-smi orders GPUs by bus.
    ...(index !== undefined && { CUDA_VISIBLE_DEVICES: index, CUDA_DEVICE_ORDER: 'PCI_BUS_ID' }),
    ...options.settings,
  }
  const own = { ...(vram !== undefined && { vram }), ...(onLog && { onLog }) }
  const gpu = await startGpu({
    ...{ packages, preload: preload.join(), edgePublicKey: null, settings, ...own },
    // Warming up would delay the first jobs, and take memory.
    waitsForAllSizes: true,
  })
  try {
    return await use(gpu.url, (run) => runWatched(gpu.pid, index, run))
  } finally {
    await gpu.stop()
  }
}

/** Runs a function while the memory of the GPU function is sampled. */
export type Watch = <T>(run: () => Promise<T>) => Promise<T & { memory: Growth[] }>

async function runWatched<T>(
  pid: number,
  gpu: string | undefined,
  run: () => Promise<T>,
): Promise<T & { memory: Growth[] }> {
  const device = watchMemory(gpu)
  await device.started
  const samples: Sample[] = []
  let peak: number | null = null
  const timer = setInterval(() => {
    const resident = groupBytes(pid)
    // The previous one if nvidia-smi is late.
    peak = device.peak() ?? peak
    const sample: Sample = {
      ...(resident !== null && { 'resident memory': resident }),
      ...(peak !== null && { 'GPU memory': peak * MEBIBYTE }),
    }
    samples.push(sample)
  }, SAMPLE_MS)
  try {
    return { ...(await run()), memory: growthOf(samples) }
  } finally {
    clearInterval(timer)
    device.stop()
  }
}
