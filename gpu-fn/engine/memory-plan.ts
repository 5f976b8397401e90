// Which networks of a package stay open between jobs and which come and go, so that all fits a budget of device memory.
import { type Manifest, NETWORKS, type NetworkName, T5_GRAPHS } from '../manifest.ts'

/** Bytes of the device's memory that a network takes. */
type Need = { network: NetworkName; weights: number /** Activations and scratch of its largest run. */; work: number }

export type MemoryPlan = {
  /** Bytes; null is no budget. */
  budget: number | null
  /** Networks that stay on the device. */
  resident: NetworkName[]
  /** Networks on the device during their runs only, one at a time. */
  offloaded: NetworkName[]
  /** Side of the autoencoder's tiles in latents; null decodes in one piece. */
  tile: number | null
  /** The most that is in use at a time, in bytes. */
  peak: number
  /** Weights that a job of one image reads again, in bytes. */
  reread: number
}

/** No plan fits the budget; the message says what is needed. */
export class BudgetError extends Error {
  override name = 'BudgetError' as const
}

/** Sides of tiles that are tried, largest first. Smaller ones show. */
const TILES = [null, 128, 96, 64, 48, 32] as const
const MIB = 2 ** 20

/**
 * What a GPU holds beside weights and what runs take: the CUDA context with the libraries' kernels, and each session's handles and
 * workspaces. An H200 had 560 MiB in use for the first session of a process beside these, and 70 MiB more after each that followed.
 */
const OVERHEAD = { process: 600 * MIB, session: 72 * MIB }
/** Bytes of the denoiser's activations, in sizes of its stream: our operators fuse what onnxruntime's keep apart. Measured likewise. */
const STREAMS: Record<Manifest['target'], number> = { cpu: 24, cuda: 30, 'cuda-fp8': 16 }
/** Steps whose modulation is computed at once. */
const STEPS = 50
const TEXT_TOKENS = 77 + 512

type Size = { width: number; height: number }
type About = Pick<Manifest, 'files' | 'networks' | 'latent' | 'position'>
/** How a package runs on this machine. */
export type Execution = {
  /** Of the step graph that is used. */
  target: Manifest['target']
  /** Samples that one run of the step graph takes at most: two where guidance has them in one batch. */
  samples: number
  /** Size of a weight in memory beside that in its file. */
  widening: number
}

/**
 * Chooses what to keep so that a job reads as few weights again as possible; the autoencoder decodes in tiles only where it must.
 * Throws `BudgetError`.
 */
export function planMemory(manifest: About, size: Size, budget: number | null, how: Execution): MemoryPlan {
  const peakOf = how.target === 'cpu' ? peakOnCpu : peakOnGpu
  let least = Number.POSITIVE_INFINITY
  for (const tile of TILES) {
    const side = tile === null ? null : tile * manifest.latent.downsample
    if (side !== null && side >= Math.max(size.width, size.height)) continue
    const tiled = side === null ? size : { width: Math.min(side, size.width), height: Math.min(side, size.height) }
    const needs = needsOf(manifest, size, tiled, how)
    const plans = subsets(needs, how).map((resident) => {
      const others = needs.filter((need) => !resident.includes(need))
      // One that has no other to make way for stays open as well.
      const reread = others.length > 1 ? sum(others, ({ weights }) => weights) : 0
      return { resident, others, peak: peakOf(resident, others), reread }
    })
    least = Math.min(least, ...plans.map(({ peak }) => peak))
    const fitting = plans.filter(({ peak }) => budget === null || peak <= budget)
    const best = fitting.sort((a, b) => a.reread - b.reread || a.others.length - b.others.length || a.peak - b.peak)[0]
    if (!best) continue
    const names = (each: readonly Need[]) => each.map(({ network }) => network)
    return {
      budget,
      tile,
      peak: best.peak,
      reread: best.reread,
      resident: names(best.resident),
      offloaded: names(best.others),
    }
  }
  throw new BudgetError(
    `${size.width}x${size.height} needs ${gigabytes(least)} of device memory at least; the budget is ${gigabytes(budget!)}`,
  )
}

const held = ({ weights, work }: Need) => weights + work
const most = (needs: readonly Need[], of: (need: Need) => number) => Math.max(0, ...needs.map(of))

/**
 * Every session stays. Weights that come take the memory that those before them left, and runs take what they need from one arena, which
 * keeps it: the autoencoder's blocks are larger than any other's.
 */
function peakOnGpu(resident: readonly Need[], others: readonly Need[]): number {
  const all = [...resident, ...others]
  const [decoder, rest] = [true, false].map((is) => all.filter(({ network }) => (network === 'vae_decoder') === is))
  const arena = most(decoder!, ({ work }) => work) + most(rest!, ({ work }) => work)
  const weights = sum(resident, ({ weights }) => weights) + most(others, ({ weights }) => weights)
  return OVERHEAD.process + all.length * OVERHEAD.session + weights + arena
}

/** A session has weights and scratch of its own for as long as it is open. */
const peakOnCpu = (resident: readonly Need[], others: readonly Need[]): number =>
  sum(resident, held) + most(others, held)

const sum = <T>(values: readonly T[], of: (value: T) => number) => values.reduce((total, value) => total + of(value), 0)
const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`

/** What may be resident. On a GPU the autoencoder always is: its weights are few, and would take longer to settle than to come (device-weights.ts). */
function subsets(needs: readonly Need[], { target }: Execution): Need[][] {
  const all = Array.from({ length: 2 ** needs.length }, (_, bits) => needs.filter((_, i) => (bits >> i) & 1))
  return target === 'cpu' ? all : all.filter((resident) => resident.some(({ network }) => network === 'vae_decoder'))
}

/** What every network of a package needs for images of a size that are decoded in tiles of another. */
function needsOf(manifest: About, size: Size, tile: Size, how: Execution): Need[] {
  const work = workOf(manifest, size, tile, how)
  return NETWORKS.filter((network) => manifest.networks[network]).map((network) => ({
    network,
    weights: (manifest.files[`${network}.weights`]?.bytes ?? 0) * how.widening,
    work: work(network),
  }))
}

/** Estimates from the sizes of the largest tensors that live at once; an arena's rounding is in the factors. */
function workOf({ networks, latent, position }: About, size: Size, tile: Size, { target, samples }: Execution) {
  const value = target === 'cpu' ? 4 : 2
  const { downsample, patch_size } = latent
  const tokens = (size.width / (downsample * patch_size)) * (size.height / (downsample * patch_size)) + TEXT_TOKENS
  // Where weights are widened before each product, one of the largest is there twice.
  const widened = 4 * position.width ** 2 * value
  const modulation = networks.conditioning?.outputs.find(({ name }) => name === 'modulation')?.shape.at(-1)
  return (network: NetworkName): number => {
    switch (network) {
      case 'transformer':
        return (
          samples * tokens * position.width * value * STREAMS[target] + widened + (target === 'cpu' ? 0 : 128 * MIB)
        )
      case 'vae_decoder':
        return tile.width * tile.height * value * 1024
      case 'conditioning':
        return samples * STEPS * Number(modulation ?? 0) * (target === 'cpu' ? 16 : 8)
      default:
        return (T5_GRAPHS as readonly string[]).includes(network) && target !== 'cpu' ? 400 * MIB : 64 * MIB
    }
  }
}

/** For a log: what stays, what comes and goes, and at what price. */
export function describePlan({ resident, offloaded, tile, peak, reread, budget }: MemoryPlan): Record<string, unknown> {
  return {
    ...{ resident, offloaded, decode: tile === null ? 'whole' : `tiles of ${tile} latents` },
    ...{
      peak: gigabytes(peak),
      reread_per_job: gigabytes(reread),
      budget: budget === null ? 'none' : gigabytes(budget),
    },
  }
}
